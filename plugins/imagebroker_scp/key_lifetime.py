"""How much one key of a connection may encrypt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KeyLifetime:
    """When new keys are due, in bytes."""

    #: New keys are asked for. 2^30 blocks of AES, of the 2^32 after which RFC 4344 (section 3.2)
    #: recommends new keys and OpenSSH makes them; no packet is so short that 2^31 of them
    #: (section 3.1) come sooner, nor is the counter of GCM (64 bits, RFC 5647, section 7.1) ever
    #: near its end. paramiko by itself asks after 2^25 blocks; fewer exchanges are fewer chances to
    #: meet a peer that cannot do one in the middle of a transfer.
    due: int = 1 << 34
    #: So much later, a server that has not agreed on new keys is hung up on.
    grace: int = 1 << 29


#: That of every connection, unless a test wants to see new keys soon.
DEFAULT = KeyLifetime()
