"""Images at scp: URIs, read and stored over SFTP. Needs the extra `scp` (paramiko).

It starts no child process and no shell (but see `legacy_scp`), and does not read ssh_config.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from imagebroker.plugin import (
    BackendHost,
    BackendLoadError,
    Finding,
    Image,
    ImageBackend,
    ImageData,
    ImageQuery,
    ImageRef,
    ImageSource,
    RefForm,
)
from imagebroker_scp.key_lifetime import DEFAULT, KeyLifetime
from imagebroker_scp.options import OPTIONS

if TYPE_CHECKING:
    from imagebroker_scp.source import RemoteFile


class ScpBackend(ImageBackend):
    """Reads scp: refs. Lists, stores and deletes files in the directory of `endpoint`."""

    api_version = 1
    name = "scp"
    record_fields = ("name",)
    ref_form = RefForm(user=True, host=True, port=True, path=True, forbidden=b"\r\n")
    options = OPTIONS

    def __init__(
        self,
        host: BackendHost,
        key_lifetime: KeyLifetime = DEFAULT,
        tested: Collection[str] | None = None,
    ) -> None:
        """`tested`: releases of paramiko whose packets are read here; by default those that are."""
        super().__init__(host)
        try:
            from imagebroker_scp.client import Sessions
        except ImportError as error:
            raise BackendLoadError(
                f"the scp backend needs paramiko, which cannot be imported ({error})",
                hint="pip install 'imagebroker[scp]'",
            ) from error
        self._sessions = Sessions(host, key_lifetime, tested)

    def open(self, context: object, ref: ImageRef) -> ImageSource:
        from imagebroker_scp.connection import NoSftp
        from imagebroker_scp.legacy import LegacySource, command_for
        from imagebroker_scp.source import ScpSource

        try:
            return ScpSource(ref, lambda: self._open_file(ref))
        except NoSftp:
            if not self._sessions.legacy:
                raise
        command = command_for(ref)
        return LegacySource(ref, lambda: self._sessions.running(command, ref))

    def _open_file(self, ref: ImageRef) -> RemoteFile:
        from imagebroker_scp.source import RemoteFile

        session, endpoint = self._sessions.for_ref(ref)
        return RemoteFile(session, ref, endpoint)

    def get_all(self, context: object, query: ImageQuery) -> Iterator[Image]:
        """The regular files directly in the directory of `endpoint`."""
        from imagebroker_scp.directory import Directory

        return Directory(self._sessions, "list images").listed(query, self.host)

    def create(self, context: object, image: Image, data: ImageData | None) -> Image:
        """Store a file named `image.name` beneath `endpoint`. SFTP stores no other field."""
        from imagebroker_scp.directory import Directory

        return Directory(self._sessions, "create images").store(image, data)

    def delete(self, context: object, ref: ImageRef) -> None:
        """Remove a file beneath `endpoint`; reads that are already running can finish."""
        from imagebroker_scp.directory import Directory

        Directory(self._sessions, "delete images").remove(ref)

    def check(self, context: object) -> Iterator[Finding]:
        from imagebroker_scp.findings import check

        return check(self._sessions)
