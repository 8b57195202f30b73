"""Where the bytes go: part files and file objects."""
