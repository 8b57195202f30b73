"""The bytes of an image, from wherever they can be had: retry, resume, parallel ranges."""
