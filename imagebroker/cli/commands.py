"""All commands by name. The module of a command is imported when the command is run."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from cliff.commandmanager import CommandManager

#: In the order in which help shows them.
COMMANDS = {
    "download": "imagebroker.cli.download:Download",
    "show": "imagebroker.cli.show:Show",
    "list": "imagebroker.cli.list:List",
    "create": "imagebroker.cli.create:Create",
    "update": "imagebroker.cli.update:Update",
    "delete": "imagebroker.cli.delete:Delete",
    "copy": "imagebroker.cli.copy:Copy",
    "import": "imagebroker.cli.import_image:Import",
    "purge": "imagebroker.cli.purge:Purge",
    "cache list": "imagebroker.cli.cache_list:CacheList",
    "cache verify": "imagebroker.cli.cache_verify:CacheVerify",
    "cache prune": "imagebroker.cli.cache_prune:CachePrune",
    "cache load": "imagebroker.cli.cache_load:CacheLoad",
    "resolve": "imagebroker.cli.resolve:Resolve",
    "backends": "imagebroker.cli.backends:Backends",
    "check": "imagebroker.cli.check.command:Check",
    "config show": "imagebroker.cli.config_show:ConfigShow",
    "config sample": "imagebroker.cli.config_sample:ConfigSample",
    "swarm init": "imagebroker.cli.swarm_init:SwarmInit",
    "swarm serve": "imagebroker.cli.swarm_serve:SwarmServe",
    "swarm rendezvous": "imagebroker.cli.swarm_rendezvous:SwarmRendezvous",
    "backend new": "imagebroker.cli.backend_new:BackendNew",
    "backend test": "imagebroker.cli.backend_test:BackendTest",
}


class Commands(CommandManager):
    """Where cliff looks up commands. No scan of entry points: it would slow down every start."""

    def __init__(self) -> None:
        super().__init__(namespace=None)
        for name, target in COMMANDS.items():
            self.commands[name] = EntryPoint(name, target, "imagebroker.cli")
