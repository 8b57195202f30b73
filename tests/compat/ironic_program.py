"""Runs in the environment that has Ironic: does what each line of stdin asks, answers on stdout.

A request is `{"do": FUNCTION, ...arguments}`, an answer `{"result": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ironic.common.image_service as images
from ironic.common import context as ironic_context
from ironic.common import images as ironic_images
from ironic.common.glance_service import service_utils
from ironic.conf import CONF

import imagebroker.compat.ironic as compat

#: Ironic's own, as they were before they were replaced.
THEIRS = SimpleNamespace(
    get_image_service=images.get_image_service,
    mapping=dict(images.protocol_mapping),
    GlanceImageService=images.GlanceImageService,
    HttpImageService=images.HttpImageService,
)


def use(config: str) -> list[str]:
    """Read an ironic.conf, and put our services in the place of Ironic's; the enabled schemes."""
    use_own("ironic")
    CONF([], project="ironic", default_config_files=[config], default_config_dirs=[])
    vars(service_utils)["_GLANCE_SESSION"] = None
    compat.of_ironic.cache_clear()
    return compat.install(images).schemes


def use_own(api: str) -> None:
    """Let the module have Ironic's own services, or ours."""
    if api == "ironic":
        images.protocol_mapping.update(THEIRS.mapping)
        images.GlanceImageService = THEIRS.GlanceImageService
        images.HttpImageService = THEIRS.HttpImageService
        images.FileImageService = THEIRS.mapping["file"]
        images.OciImageService = THEIRS.mapping["oci"]
    else:
        compat.of_ironic().install(images)


def context_of(context: dict[str, Any] | None) -> Any:
    if context is None:
        return ironic_context.RequestContext()
    return ironic_context.RequestContext(
        auth_token=context["token"], user_id=context["user"], project_id=context["project"]
    )


def call(api: str, method: str, href: str, context: dict[str, Any] | None, args: list[Any]) -> Any:
    use_own(api)
    found = getattr(images.get_image_service(href, context=context_of(context)), method)
    return found(href, *args)


def download(
    api: str,
    href: str,
    path: str,
    context: dict[str, Any] | None,
    auth: Any = None,
    checksum: str | None = None,
    algo: str | None = None,
) -> Any:
    """As `ironic.common.images.fetch_into` does it; what the transfer has verified."""
    use_own(api)
    service = images.get_image_service(href, context=context_of(context))
    if auth is not None:
        service.set_image_auth(href, auth)
    with open(path, "wb") as file:
        service.download(href, file, checksum=checksum, checksum_algo=algo)
    return service.transfer_verified_checksum


def fetch_into(api: str, href: str, path: str, context: dict[str, Any] | None) -> Any:
    use_own(api)
    ironic_images.fetch_into(context_of(context), href, path)
    return Path(path).read_bytes().hex()


def is_source_a_path(api: str, href: str) -> Any:
    use_own(api)
    return ironic_images.is_source_a_path(context_of(None), href)


def is_whole_disk_image(api: str, context: dict[str, Any], info: dict[str, Any]) -> Any:
    use_own(api)
    return ironic_images.is_whole_disk_image(context_of(context), info)


def text_of(api: str, href: str) -> str:
    use_own(api)
    return str(images.HttpImageService.get(href))


def identify(api: str, href: str, auth: dict[str, str]) -> Any:
    """What `deploy_utils` does with an image in a registry."""
    use_own(api)
    service = images.OciImageService()
    service.set_image_auth(href, auth)
    return service.identify_specific_image(href, "http", "x86_64")


def temp_url(api: str, image_id: str) -> str:
    use_own(api)
    info = {"id": image_id, "name": "x"}
    return str(images.GlanceImageService(context=context_of(None)).swift_temp_url(info))


def kinds(href: str) -> list[bool]:
    """Whether the service for an href is one of ours, and one of Ironic's class."""
    use_own("ours")
    found = images.get_image_service(href, context=context_of(None))
    own = type(found).__mro__[1].__module__.startswith("imagebroker.")
    scheme = href.partition(":")[0] if ":" in href else "glance"
    return [own, isinstance(found, THEIRS.mapping[scheme])]


def shown(value: Any) -> Any:
    if isinstance(value, datetime):
        assert value.tzinfo is None, "Ironic's datetimes are naive"
        return value.isoformat()
    headers = getattr(value, "headers", None)
    if headers is not None:
        named = ("Content-Type", "Content-Length", "Last-Modified")
        return [value.url, value.status_code, {k: headers[k] for k in named if k in headers}]
    return list(value) if hasattr(value, "__iter__") else repr(value)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    known = (
        use, call, download, fetch_into, is_source_a_path, is_whole_disk_image, text_of, temp_url,
        kinds, identify,
    )  # fmt: skip
    functions: dict[str, Any] = {function.__name__: function for function in known}
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
