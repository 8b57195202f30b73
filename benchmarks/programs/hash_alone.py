"""Hashing and nothing else: ALGORITHM, MIB. What bounds every verified transfer from below."""

import hashlib
import os
import sys

hasher, block = hashlib.new(sys.argv[1]), os.urandom(1024 * 1024)
for _ in range(int(sys.argv[2])):
    hasher.update(block)
