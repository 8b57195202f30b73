"""What a deployer has written down about the fleet of this host."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from imagebroker.backends.backend import Options
from imagebroker.exceptions import BackendLoadError, ConfigError
from imagebroker.swarm.certificates import Identity
from imagebroker.swarm.plan import Layout, opening
from imagebroker.swarm.start import Start, members, ports
from imagebroker.system.owned_directory import open_owned

T = TypeVar("T")
#: The second process has another current directory.
_PATHS = ("swarm_ca", "swarm_certificate", "swarm_key", "swarm_dir", "swarm_members_dir")
_NEEDED = ("swarm_address", "swarm_ca", "swarm_certificate", "swarm_key", "swarm_dir")


@dataclass(frozen=True)
class Fleet:
    """The other hosts, how to reach them, and who this one is."""

    identity: Identity
    directory: Path
    address: str
    ports: Sequence[int]
    members: Sequence[tuple[str, int]]
    rendezvous: Sequence[str]
    #: Images of fewer bytes are read from the backend alone.
    from_size: int
    #: Seconds for which an image is passed on after it was downloaded.
    linger: float
    #: Bytes a second: to other hosts, from them, and from the backend.
    upload_limit: int
    download_limit: int
    backend_limit: int
    #: Where this host stands.
    rack: str
    #: A directory that all hosts share, where they find each other.
    shared: str

    @classmethod
    def configured(cls, core: Options) -> Self | None:
        """None where the option `swarm` is off.

        :raises ConfigError: what it needs is missing or wrong. :raises BackendLoadError: the extra
            is not installed.
        """
        if not core.swarm:
            return None
        for option in _NEEDED:
            if not core[option]:
                raise ConfigError(
                    f"{option} is not set, and a swarm needs it",
                    hint="set it, or take swarm out of the config file; docs/fleet.md has an "
                    "example",
                    option=option,
                )
        for option in _PATHS:
            if core[option] and not os.path.isabs(core[option]):
                raise ConfigError(
                    f"{option}: {core[option]!r} is not an absolute path",
                    hint="write a path that begins with /",
                    option=option,
                )
        if importlib.util.find_spec("libtorrent") is None:
            raise BackendLoadError(
                "swarm is on, and libtorrent is not installed",
                hint="pip install 'imagebroker[swarm]', or set swarm = false",
            )
        identity = Identity(Path(core.swarm_ca), Path(core.swarm_certificate), Path(core.swarm_key))
        identity.check()
        fleet = cls(
            identity, Path(core.swarm_dir), _address(core.swarm_address),
            _checked("swarm_ports", lambda: ports(core.swarm_ports)),
            _checked(
                "swarm_members", lambda: members(core.swarm_members, ports(core.swarm_ports))
            ),
            core.swarm_rendezvous, core.swarm_from, core.swarm_linger,
            core.swarm_upload_limit or 0, core.swarm_download_limit or 0,
            core.swarm_backend_limit or 0, core.swarm_rack or "", core.swarm_members_dir or "",
        )  # fmt: skip
        if not (fleet.members or fleet.rendezvous or fleet.shared):
            raise ConfigError(
                "none of swarm_members, swarm_members_dir and swarm_rendezvous says where other "
                "hosts are",
                hint="list the hosts, or start: imagebroker swarm rendezvous",
                option="swarm_members",
            )
        return fleet

    def start(
        self, topic: str, size: int, first: int, idle_timeout: float, root: bytes | None = None
    ) -> Start:
        """What the process of one download, which needs nothing before byte `first`, is told.

        :raises OSError, ConfigError: there is no directory for what arrives.
        """
        from imagebroker.swarm.spool import new_spool

        os.close(open_owned(self.directory, "swarm_dir"))
        layout = Layout(size)
        return Start(
            topic=topic,
            size=size,
            first=layout.index(first),
            opening=opening(layout.index(first), layout.count),
            spool=new_spool(self.directory),
            address=self.address,
            ports=list(self.ports),
            members=list(self.members),
            rendezvous=list(self.rendezvous),
            ca=os.fspath(self.identity.ca),
            certificate=os.fspath(self.identity.certificate),
            key=os.fspath(self.identity.key),
            upload_limit=self.upload_limit,
            idle_timeout=idle_timeout,
            root="" if root is None else root.hex(),
            rack=self.rack,
            directory=self.shared,
            download_limit=self.download_limit,
            backend_limit=self.backend_limit,
        )


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(
            f"swarm_address: {text!r} is not an address",
            hint="write this host's address in the network of the fleet, such as 10.0.0.17",
            option="swarm_address",
        ) from error
    if found.is_unspecified:
        raise ConfigError(
            f"swarm_address: {text} is not an address that other hosts can reach",
            hint="write this host's address in the network of the fleet, such as 10.0.0.17",
            option="swarm_address",
        )
    return str(found)


def _checked(option: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise ConfigError(
            f"{option}: {error}",
            hint="write addresses or names, such as 10.0.0.17, 10.0.0.17:7881 or rack1.internal"
            if option == "swarm_members"
            else "write a range of ports, such as 7881-7888",
            option=option,
        ) from error
