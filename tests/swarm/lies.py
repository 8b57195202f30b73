"""What a host of the fleet may tell others that is not so; `liar.py` is a host that does."""

LIES = (
    "wrong bytes",  # it sends other bytes than the pieces that it names
    "other pieces",  # it names the pieces of other bytes, and sends these
    "wrong length",  # it sends half of a chunk, and then nothing
    "silence",  # it says that it has chunks, and sends nothing of them
)
