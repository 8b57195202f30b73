"""The verbs of the broker, each with the snapshot of its call."""
