"""Runs in the environment that has Cinder: does what each line of stdin asks, answers on stdout.

A request is `{"do": FUNCTION, ...arguments}`, an answer `{"result": ...}` or `{"error": ...}`. The
first argument of the program is `threading`, or `eventlet` for green threads, as Cinder's own
programs start.
"""

from __future__ import annotations

import os
import sys

if sys.argv[1] == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import inspect
import io
import json
import tempfile
import traceback
from datetime import datetime
from typing import Any

import cinder.context
import cinder.exception
import cinder.image.image_utils as image_utils  # before glance, which it imports
from cinder.common import config as cinder_config
from cinder.image import glance
from eventlet import tpool

import imagebroker
from imagebroker.compat.cinder import GlanceImageService, broker_of

THEIRS = glance.GlanceImageService
BROKERS: list[imagebroker.Broker] = []


def use(config: str) -> list[str]:
    """Read a cinder.conf; what its options became."""
    for broker in BROKERS:
        broker.close()
    cinder_config.CONF([], project="cinder", default_config_files=[config], default_config_dirs=[])
    BROKERS[:] = [broker_of(cinder_config.CONF)]
    glance.GlanceImageService = GlanceImageService.on(BROKERS[0], cinder.exception)
    return [each.scheme for each in BROKERS[0].backends() if each.enabled]


def service(api: str) -> Any:
    return THEIRS() if api == "cinder" else glance.get_default_image_service()


def signatures() -> dict[str, dict[str, list[str]]]:
    """The parameters of each public method, of both."""
    found: dict[str, dict[str, list[str]]] = {}
    for title, cls in (("cinder", THEIRS), ("ours", GlanceImageService)):
        methods = {n: m for n, m in vars(cls).items() if not n.startswith("_") and n != "on"}
        found[title] = {
            name: [f"{p.name}={p.default!r}" for p in inspect.signature(each).parameters.values()]
            for name, each in methods.items()
            if inspect.isfunction(each)
        }
    return found


def context_of(token: str, user: str, project: str, is_admin: bool = False) -> Any:
    return cinder.context.RequestContext(
        user_id=user, project_id=project, auth_token=token, is_admin=is_admin
    )


def call(
    api: str, method: str, context: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """A method of one of the two. Data that is text stands for a file object with these bytes."""
    if isinstance(kwargs.get("data"), str):
        kwargs["data"] = tpool.Proxy(io.BytesIO(kwargs["data"].encode()))
    answer = getattr(service(api), method)(context_of(**context), *args, **kwargs)
    if method == "download" and answer is not None:
        return b"".join(answer).hex()
    return list(answer) if method == "list_members" else answer


def fetch(api: str, context: dict[str, Any], image: str, path: str) -> None:
    """Cinder's own code: a `tpool.Proxy` of an open file."""
    image_utils.fetch(context_of(**context), service(api), image, path, None, None)


def fetch_to_device(context: dict[str, Any], image: str, path: str) -> None:
    with open(path, "wb") as volume:
        service("ours").download(context_of(**context), image, tpool.Proxy(volume))


def upload(api: str, context: dict[str, Any], image: str, path: str, store: str | None) -> None:
    """Cinder's own code: a `tpool.Proxy` of an open volume."""
    service_of, requested = service(api), context_of(**context)
    meta = service_of.show(requested, image)
    image_utils.upload_volume(requested, service_of, meta, path, run_as_root=False, store_id=store)


def at_once(context: dict[str, Any], images: list[str]) -> list[int]:
    """Downloads in green threads; their sizes."""
    pool = eventlet.GreenPool()

    def one(image: str) -> int:
        with tempfile.TemporaryFile() as file:
            service("ours").download(context_of(**context), image, tpool.Proxy(file))
            return file.seek(0, os.SEEK_END)

    return list(pool.imap(one, images))


def remote(context: dict[str, Any], href: str) -> Any:
    found, image = glance.get_remote_image_service(context_of(**context), href)
    return found.show(context_of(**context), image)["id"]


def shown(value: Any) -> Any:
    if isinstance(value, datetime):
        assert value.tzinfo is not None, "Cinder's datetimes are aware"
        return value.isoformat()
    if hasattr(value, "keys"):
        return dict(value)
    return list(value) if hasattr(value, "__iter__") else repr(value)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    known = (use, signatures, call, fetch, fetch_to_device, upload, at_once, remote)
    functions = {function.__name__: function for function in known}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"result": functions[request.pop("do")](**request)}
        except Exception as error:
            traceback.print_exc()
            cls = type(error)
            answer = {"error": f"{cls.__module__}.{cls.__qualname__}", "text": str(error)}
        answers.write(json.dumps(answer, default=shown) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
