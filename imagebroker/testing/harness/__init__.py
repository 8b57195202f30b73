"""Observes a backend: its connections, its calls, and what it leaves behind."""
