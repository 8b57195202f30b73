"""Records the calls of a broker: log lines, metrics and spans."""
