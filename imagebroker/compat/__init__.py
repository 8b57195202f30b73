"""Drop-in replacements for what services have used so far, on the public calls of `Broker`."""
