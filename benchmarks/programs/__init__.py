"""Small programs around the libraries that people would use instead, for the peers' Python."""
