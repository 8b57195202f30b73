"""What backends for object stores (S3, Swift) share: records, names, and uploads in parts."""
