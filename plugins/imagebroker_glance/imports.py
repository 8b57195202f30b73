"""Images whose data Glance fetches itself: from a URL (`web-download`), or into other stores."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from imagebroker.plugin import (
    BackendError,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
    UploadFailed,
    printable,
)
from imagebroker_glance.client import GlanceApi, Server
from imagebroker_glance.identity import Identity

#: The progress in the message of Glance's tasks.
_COPIED = re.compile(r"Copied ([0-9]{1,12}) MiB")
_LONGEST_PAUSE = 1.0


def import_image(
    api: GlanceApi, identity: Identity, image_id: str, url: str | None, stores: Sequence[str]
) -> Iterator[int]:
    """Begin an import at the first step, and yield the number of bytes until it is done.

    :raises Conflict: the image is not queued (with `url`), not active (without), or being imported.
    :raises InvalidImageRef: the service has no such store, or the image is in it already.
    :raises UploadFailed: the import failed; an image that was queued is queued again.
    """
    running = _Import(api, identity, image_id, url, stores)
    running.begin()
    pause, copied = 0.05, 0
    while not running.is_done():
        copied = max(copied, running.copied)
        yield copied
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 1.5 * pause)
    yield max(copied, running.size)


class _Import:
    """One running import. Glance reports it in three places: status, properties and a task."""

    def __init__(
        self, api: GlanceApi, identity: Identity, image_id: str, url: str | None,
        stores: Sequence[str],
    ) -> None:  # fmt: skip
        self._api = api
        self._identity = identity
        self._id = image_id
        self._url = url
        self._stores = list(stores)
        self._earlier: set[str] = set()
        self._failing_since: float | None = None
        #: The bytes copied according to the task; the size in the record.
        self.copied = self.size = 0

    def begin(self) -> None:
        self._earlier = {str(task.get("id")) for task in self._tasks()}
        try:
            self._api.ask(self._identity, self._post, what=f"import of image {self._id}")
        except (TransferError, BackendError):
            # The answer may be lost although the import was accepted: then there is a task.
            if self._task() is None:
                raise

    def _post(self, server: Server) -> None:
        server.client.images.image_import(
            self._id, method="copy-image" if self._url is None else "web-download",
            uri=self._url, stores=self._stores, allow_failure=False,
        )  # fmt: skip

    def is_done(self) -> bool:
        """:raises UploadFailed: it never will be."""
        try:
            raw, _ = self._api.show(self._identity, self._id)
            task = self._task() or {}
        except (TransferError, BackendError) as error:
            self._bear(error)
            return False
        self._failing_since = None
        message = str(task.get("message") or "")
        if found := _COPIED.search(message):
            self.copied = int(found[1]) * 1024 * 1024
        failed = _names(raw, "os_glance_failed_import") & set(self._stores)
        if task.get("status") == "failure" or (failed and not _names(raw, _IMPORTING)):
            raise self._failure(message, failed)
        if raw.get("status") in ("deleted", "pending_delete", "killed"):
            raise self._failure(f"it is {raw['status']}", failed)
        if isinstance(raw.get("size"), int):
            self.size = raw["size"]
        there = set(self._stores) <= _names(raw, "stores") or "stores" not in raw
        ended = task.get("status", "success") == "success" and not _names(raw, _IMPORTING)
        return raw.get("status") == "active" and there and ended

    def _bear(self, error: ImageBrokerError) -> None:
        """Tolerate a server that is unavailable for a moment."""
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if not error.retryable or now - self._failing_since > self._api.limits.stall_timeout:
            raise error

    def _failure(self, message: str, stores: set[str]) -> UploadFailed:
        where = f" into {', '.join(sorted(stores))}" if stores else ""
        reason = printable(message, 300) or "the service gives no reason"
        return UploadFailed(
            f"the import of image {self._id}{where} failed: {reason}",
            hint="check that the image service can reach and read the data, and check its log",
            image_id=self._id,
        )

    def _task(self) -> Mapping[str, Any] | None:
        """The task of this import; None if Glance shows none to this caller."""
        new = [task for task in self._tasks() if str(task.get("id")) not in self._earlier]
        return max(new, key=lambda task: str(task.get("created_at")), default=None)

    def _tasks(self) -> list[Mapping[str, Any]]:
        """glanceclient's own call would ask for the versions of the service before each."""

        def call(server: Server) -> Any:
            return server.client.http_client.get(f"/v2/images/{self._id}/tasks")[1]["tasks"]

        try:
            tasks = self._api.ask(
                self._identity, call, what=f"tasks of image {self._id}", reads=True
            )
        except (ImageNotFound, NotAuthorized) as error:
            if getattr(error, "status", None) in (403, 404):
                return []
            raise
        return [each for each in tasks if isinstance(each, dict)] if isinstance(tasks, list) else []


_IMPORTING = "os_glance_importing_to_stores"


def _names(raw: Mapping[str, Any], name: str) -> set[str]:
    """A list that Glance stores as text, separated by commas."""
    return set(filter(None, str(raw.get(name) or "").split(",")))
