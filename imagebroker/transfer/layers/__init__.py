"""What lies around a fetch: verification, decompression, single flight, the cache."""
