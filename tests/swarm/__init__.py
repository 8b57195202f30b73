"""Hosts of a fleet that download one image together."""
