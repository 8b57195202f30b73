"""`imagebroker check`: one module for each kind of line, and `checks.py`, which lists them."""
