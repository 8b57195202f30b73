"""Fetches the bytes of an image: candidates, retry, resume, parallel ranges."""
