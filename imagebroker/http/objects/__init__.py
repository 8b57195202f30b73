"""Shared code of backends for object stores (S3, Swift): records, names, and uploads in parts."""
