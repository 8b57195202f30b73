"""pooch, which verifies: URL, sha256, DEST."""

import os
import sys

import pooch

url, digest, dest = sys.argv[1:]
folder, name = os.path.split(dest)
pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=name, path=folder)
