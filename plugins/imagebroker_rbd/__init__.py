"""Images in pools of Ceph: `rbd://pool/image[@snapshot]`."""

from imagebroker_rbd.backend import RbdBackend

__all__ = ["RbdBackend"]
