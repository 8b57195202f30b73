"""The embedded store as a subject: verbs for children, and what must hold after a fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.faults import stage
from tests.faults.tally import LEAK, OTHER, PARTIAL, WRONG, Violation

#: Of every image in the store.
DATA = stage.DATA[:40_000]


def create(name: str) -> dict[str, Any]:
    """In a child."""
    try:
        stage.BROKER.create(None, {"name": name, "disk_format": "raw"}, DATA, backend="file")
        return {"end": "done"}
    finally:
        os.getpriority(os.PRIO_PROCESS, 0)


def delete(name: str) -> dict[str, Any]:
    """In a child."""
    try:
        [image] = [each for each in stage.BROKER.get_all(None, backend="file") if each.name == name]
        stage.BROKER.delete(None, image.ref)
        return {"end": "done"}
    finally:
        os.getpriority(os.PRIO_PROCESS, 0)


def look(kept: list[str], deleted: bool) -> dict[str, Any]:
    """In a child: what is wrong with the store, before and after another image is created.

    `kept`: names that must be there. `deleted`: "before" must not.
    """
    wrong = _wrong(kept, deleted)
    stage.BROKER.create(None, {"name": "next", "disk_format": "raw"}, DATA, backend="file")
    wrong += _wrong([*kept, "next"], deleted)
    folder = Path(stage.STORE)
    active = sorted(str(image.id) for image in stage.BROKER.get_all(None, backend="file"))
    stored = sorted(each.name for each in (folder / "images").iterdir())
    arriving = [each.name for each in (folder / "incoming").iterdir()]
    if stored != active or arriving:
        wrong.append((LEAK, f"{stored} and {arriving} are stored for {active}"))
    return {"wrong": wrong}


def _wrong(kept: list[str], deleted: bool) -> list[tuple[str, str]]:
    images = list(stage.BROKER.get_all(None, backend="file"))
    wrong = []
    for image in images:
        try:
            with stage.BROKER.open(None, image.ref) as reader:
                content = b"".join(reader)
        except Exception as error:
            wrong.append((PARTIAL, f"{image.name} is active, and cannot be read: {error}"))
            continue
        if content != DATA:
            wrong.append((PARTIAL, f"{image.name} is active, and its bytes are wrong"))
    names = [str(image.name) for image in images]
    lost = [name for name in kept if name not in names]
    if lost:
        wrong.append((WRONG, f"{lost} had been created, and {names} are there"))
    if deleted and "before" in names:
        wrong.append((WRONG, "what had been deleted is there again"))
    return wrong


def judge(answer: dict[str, Any] | None) -> list[Violation]:
    if answer is None or "raised" in answer:
        return [Violation(OTHER, f"the store cannot be used: {answer}")]
    return [Violation(kind, what) for kind, what in answer["wrong"]]
