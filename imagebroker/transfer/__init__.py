"""How bytes move: attempts and retries, the part file, the reader, limits and progress."""
