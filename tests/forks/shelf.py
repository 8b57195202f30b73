"""A backend by somebody else, who knows nothing of forks: it cleans up as one does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from imagebroker.plugin import Image, ImageBackend, ImageData, ImageRef, ImageSource, RefForm

#: Set by the test: where the files are.
FOLDER = Path()
#: What was called, by whom.
CALLS: list[tuple[str, int]] = []
#: Set when `create` waits for its peer.
WAITING = threading.Event()


class ShelfBackend(ImageBackend):
    api_version = 1
    name = "shelf"
    ref_form = RefForm(id=True)

    def open(self, context: Any, ref: ImageRef) -> ImageSource:
        raise NotImplementedError

    def create(self, context: Any, image: Image, data: ImageData | None) -> Image:
        assert data is not None
        path = FOLDER / "upload"
        try:
            with path.open("wb") as file:
                for chunk in data:
                    file.write(chunk)
            if image.name == "slow":
                self._ask_peer()
            os.rename(path, FOLDER / "stored")
        except BaseException:
            CALLS.append(("undo", os.getpid()))
            path.unlink()
            raise
        return Image(ref="shelf:1", id="1", size=data.sent)

    def _ask_peer(self) -> None:
        """As long as the connection stands."""
        with self.host.connect("127.0.0.1", int((FOLDER / "port").read_text())) as sock:
            WAITING.set()
            while sock.recv(1):
                time.sleep(0.01)
        raise ConnectionError

    def __del__(self) -> None:
        CALLS.append(("del", os.getpid()))
