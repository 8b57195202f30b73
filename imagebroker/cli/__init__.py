"""The command `imagebroker`: the Python API for a person at a shell, built with cliff."""
