"""Backends: the contract, how plugins are found, and the boundary that guards every call to one."""
