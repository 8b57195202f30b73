"""Bytes of an image from other hosts of the fleet that download it at the same time.

`source.py` is this process's part: it reads this host's share from the backend. `host.py` runs in a
child process: it speaks with other hosts, and libtorrent moves the bytes. Nothing here is imported
unless the option `swarm` is on.
"""
