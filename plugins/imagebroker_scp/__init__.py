"""Images at scp: URIs, read and stored over SFTP. Needs the extra `scp` (paramiko)."""

from imagebroker_scp.backend import ScpBackend

__all__ = ["ScpBackend"]
