"""What many write around requests: URL, DEST."""

import sys

import requests

with requests.get(sys.argv[1], stream=True, timeout=60) as answer, open(sys.argv[2], "wb") as file:
    answer.raise_for_status()
    for chunk in answer.iter_content(1024 * 1024):
        file.write(chunk)
