"""Runs in the environment that has Nova: our options beside all of Nova's, in one ConfigOpts.

The argument is a nova.conf that has our sections too, which is rewritten. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nova.conf
from oslo_config import cfg

import imagebroker


def values(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Every option that is registered and not ours, with its value."""
    found: dict[str, str] = {}
    for group in [None, *conf]:
        owner: Any = conf if group is None else conf[group]
        if group is not None and not isinstance(owner, cfg.ConfigOpts.GroupAttr):
            continue
        if group is not None and (group == "imagebroker" or group.startswith("backend:")):
            continue
        for name in owner:
            try:
                value = owner[name]
            except cfg.Error as error:
                value = type(error).__name__
            if not isinstance(value, cfg.ConfigOpts.GroupAttr):
                found[f"{group}.{name}"] = repr(value)
    return found


def main(path: Path) -> None:
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[str(path)], default_config_dirs=[])
    groups = sorted(name for name in conf if name == "imagebroker" or name.startswith("backend:"))
    before = values(conf)
    answer: dict[str, Any] = {"ours_before": groups, "options": len(before)}
    with imagebroker.Broker(conf) as broker:
        answer["resolved"] = [
            broker.resolve(ref).backend
            for ref in ("glance:3f2504e0-4f89-11d3-9a0c-0305e82c3301", "https://example.org/x")
        ]
        after = values(conf)
        answer["changed"] = [name for name, value in before.items() if after.get(name) != value]
        try:
            broker.resolve("file:///srv/x")
        except imagebroker.SchemeNotEnabled as error:
            answer["where"] = error.where

        conf.register_mutate_hook(lambda conf, changed: broker.reload())
        text = path.read_text()
        path.write_text(
            text.replace("glance, https", "glance, https, file").replace(
                "timeout = 700", "timeout = 900"
            )
        )
        conf.mutate_config_files()
        answer["reloaded"] = [
            conf.libvirt.live_migration_completion_timeout,
            broker.resolve("file:///srv/x").backend,
        ]
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
