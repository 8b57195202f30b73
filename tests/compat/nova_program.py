"""Runs in the environment that has Nova: does what each line of stdin asks, answers on stdout.

A request is `{"do": FUNCTION, ...arguments}`, an answer `{"result": ...}` or `{"error": ...}`. The
first argument of the program is the concurrency that Nova is started with: `threading` or
`eventlet`.
"""

# ruff: noqa: E402 - the order of imports is that of Nova's own services

from __future__ import annotations

import sys

import nova.monkey_patch

nova.monkey_patch.patch(sys.argv[1])

import importlib
import inspect
import io
import json
import os
import traceback
from datetime import datetime
from typing import Any

import nova.conf
import nova.context
import nova.exception
import nova.virt.images
from nova import objects
from nova.image import glance

import imagebroker
from imagebroker.compat.nova import API

BROKERS: list[imagebroker.Broker] = []
APIS: dict[str, Any] = {"nova": glance.API()}


def use(config: str, endpoint: str, folder: str) -> bool:
    """Both APIs speak to the Glance at `endpoint`; Nova fetches through ours.

    `config` is a nova.conf that has the sections of imagebroker, too.

    Whether threads are green ones.
    """
    for broker in BROKERS:
        broker.close()
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[config], default_config_dirs=[])
    BROKERS[:] = [imagebroker.Broker(conf)]
    APIS["ours"] = nova.virt.images.IMAGE_API = API(BROKERS[0], nova.exception)
    conf.set_override("api_servers", [endpoint], "glance")
    conf.set_override("num_retries", 0, "glance")
    conf.set_override("instances_path", folder)
    return nova.monkey_patch.is_patched()


def use_its_own(config: str, folder: str) -> str:
    """Nova's modules get our class, on a nova.conf in which nothing is ours; the class's name."""
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[config], default_config_dirs=[])
    conf.set_override("instances_path", folder)
    original, glance.API = glance.API, API.on(conf, nova.exception)
    try:
        importlib.reload(nova.virt.images)  # as where the assignment comes first
    finally:
        glance.API = original
    APIS["ours"] = nova.virt.images.IMAGE_API
    return type(APIS["ours"]).__mro__[1].__module__


def signatures() -> dict[str, dict[str, Any]]:
    """Name to kind and parameters of each public member, of both."""
    found: dict[str, dict[str, Any]] = {}
    for title, cls in (("nova", glance.API), ("ours", API)):
        members = {
            name: each for name, each in vars(cls).items() if name != "on" and name[0] != "_"
        }
        found[title] = {
            name: {
                "static": isinstance(each, staticmethod),
                "parameters": [
                    (p.name, str(p.kind), repr(p.default))
                    for p in inspect.signature(getattr(cls, name)).parameters.values()
                ],
            }
            for name, each in members.items()
        }
    return found


def context_of(token: str, user: str, project: str, is_admin: bool = False) -> Any:
    return nova.context.RequestContext(
        user_id=user, project_id=project, auth_token=token, is_admin=is_admin
    )


def call(
    api: str, method: str, context: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """A method of one of the two. Data that is text stands for a file object with these bytes."""
    if isinstance(kwargs.get("data"), str):
        kwargs["data"] = io.BytesIO(kwargs["data"].encode())
    answer = getattr(APIS[api], method)(context_of(**context), *args, **kwargs)
    if method == "download" and answer is not None:
        return b"".join(answer).hex()
    return list(answer) if method == "get_all" else answer


def fetch(context: dict[str, Any], image: str, path: str) -> None:
    nova.virt.images.fetch(context_of(**context), image, path)


def fetch_to_raw(context: dict[str, Any], image: str, path: str) -> None:
    nova.virt.images.fetch_to_raw(context_of(**context), image, path)


def image_meta(context: dict[str, Any], image: str) -> Any:
    """Nova's own object, made of a record of ours."""
    meta = objects.ImageMeta.from_image_ref(context_of(**context), APIS["ours"], image)
    return {name: getattr(meta, name) for name in ("id", "name", "size", "status", "tags")}


def shown(value: Any) -> Any:
    if isinstance(value, datetime):
        assert value.tzinfo is not None, "Nova's datetimes are aware"
        return value.isoformat()
    return repr(value)


def main() -> None:
    objects.register_all()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    functions = {
        f.__name__: f for f in (use, use_its_own, signatures, call, fetch, fetch_to_raw, image_meta)
    }
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
