"""The commands by name. A module is imported when its command is asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from cliff.commandmanager import CommandManager

#: In the order in which help shows them.
COMMANDS = {
    "download": "imagebroker.cli.download:Download",
    "show": "imagebroker.cli.images:Show",
    "list": "imagebroker.cli.images:List",
    "create": "imagebroker.cli.changes:Create",
    "update": "imagebroker.cli.changes:Update",
    "delete": "imagebroker.cli.changes:Delete",
    "copy": "imagebroker.cli.changes:Copy",
    "import": "imagebroker.cli.imports:Import",
    "purge": "imagebroker.cli.purge:Purge",
    "cache list": "imagebroker.cli.cache:CacheList",
    "cache verify": "imagebroker.cli.cache:CacheVerify",
    "cache prune": "imagebroker.cli.cache:CachePrune",
    "cache load": "imagebroker.cli.cache:CacheLoad",
    "resolve": "imagebroker.cli.about:Resolve",
    "backends": "imagebroker.cli.about:Backends",
    "check": "imagebroker.cli.about:Check",
    "config show": "imagebroker.cli.config_show:ConfigShow",
    "config sample": "imagebroker.cli.about:ConfigSample",
    "backend new": "imagebroker.cli.backend_new:BackendNew",
    "backend test": "imagebroker.cli.backend_test:BackendTest",
}


class Commands(CommandManager):
    """What cliff looks commands up in. Nothing is scanned for: scanning costs start-up."""

    def __init__(self) -> None:
        super().__init__(namespace=None)
        for name, target in COMMANDS.items():
            self.commands[name] = EntryPoint(name, target, "imagebroker.cli")
