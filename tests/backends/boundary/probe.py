"""A plugin that answers with whatever a test gives it, and sources of given chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from oslo_config import cfg

from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.backends.opened_source import GRACE
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    BackendHost,
    Buffer,
    Image,
    ImageBackend,
    ImageData,
    ImageQuery,
    ImageRef,
    ImageSource,
    Limits,
    Options,
    RefForm,
)
from imagebroker.policy.addresses import Policy, networks

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
REF = parse(f"probe:{UUID}")
ORIGIN = "imagebroker-probe 1.0"
LOOPBACK = Policy(allowed_networks=networks(["127.0.0.0/8"]))


class Probe(ImageBackend):
    """Answers `open` with whatever a test gives it."""

    api_version = 1
    name = "probe"
    ref_form = RefForm(id=True)

    def open(self, context: Any, ref: ImageRef) -> Any:
        return self.answer(context, ref)

    def answer(self, context: Any, ref: ImageRef) -> Any:
        raise NotImplementedError


class Chunks(ImageSource):
    """A source of given chunks."""

    def __init__(self, *chunks: Any, size: int | None = None) -> None:
        self.image = Image(ref=REF.text, size=size)
        self.chunks: Any = chunks
        self.asked: list[tuple[int, int | None]] = []
        self.closed = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        self.asked.append((start, stop))
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed += 1


def guarded(
    answer: Callable[[Any, ImageRef], Any], *, grace: float = GRACE, **limits: float
) -> Boundary:
    """A boundary around a backend whose `open` is `answer`."""
    host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK, limits=Limits(**limits))
    probe = type("Probe", (Probe,), {"answer": staticmethod(answer)})
    return Boundary(Declaration.of(probe), host, ORIGIN, grace=grace)


class RecordingBackend(ImageBackend):
    """Every verb: notes what it was called with, and answers what a test prepared."""

    api_version = 1
    name = "recording"
    ref_form = RefForm(id=True)
    options = (cfg.StrOpt("colour", default="red"), cfg.IntOpt("depth", default=1))
    require_checksum = True
    made: list[RecordingBackend] = []
    calls: list[tuple[Any, ...]] = []
    answers: dict[str, Any] = {}

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        self.made.append(self)

    def _answer(self, verb: str, *arguments: Any) -> Any:
        self.calls.append((verb, *arguments))
        answer = self.answers.get(verb)
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    def open(self, context: Any, ref: ImageRef) -> Any:
        return self._answer("open", context, ref)

    def get_all(self, context: Any, query: ImageQuery) -> Any:
        return self._answer("get_all", context, query)

    def create(self, context: Any, image: Image, data: ImageData | None) -> Any:
        return self._answer("create", context, image, data)

    def update(
        self, context: Any, ref: ImageRef, changes: Any, data: Any, purge_props: bool
    ) -> Any:
        return self._answer("update", context, ref, changes, data, purge_props)

    def delete(self, context: Any, ref: ImageRef) -> Any:
        return self._answer("delete", context, ref)

    def import_image(self, context: Any, ref: ImageRef, *, url: Any, stores: Any) -> Any:
        return self._answer("import_image", context, ref, url, stores)

    def stores(self, context: Any) -> Any:
        return self._answer("stores", context)

    def members(self, context: Any, ref: ImageRef) -> Any:
        return self._answer("members", context, ref)

    def purge(self, context: Any, older_than: float, dry_run: bool) -> Any:
        return self._answer("purge", context, older_than, dry_run)

    def close(self) -> None:
        self._answer("close")
