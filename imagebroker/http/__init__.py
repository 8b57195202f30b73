"""Shared code of plugins that speak HTTP."""
