"""The layers around a fetch: verification, decompression, single flight, the cache."""
