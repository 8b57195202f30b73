"""A process in the environment that has a service, with this working tree on its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.compat.nova_process import NovaProcess, ServiceError
from tests.servers.openstack_service import cache_directory

__all__ = ["ServiceError", "ServiceProcess", "environment_of", "missing_service"]


def environment_of(service: str) -> Path:
    """Return the virtualenv with `service`."""
    return cache_directory() / service


def missing_service(service: str) -> str | None:
    """Return what to install, or None."""
    if not (environment_of(service) / "versions").exists():
        return f"{service} is not in {environment_of(service)}: run tests/install-servers"
    return None


class ServiceProcess(NovaProcess):
    """Runs `<service>_program.py` beside this file, which says what can be asked."""

    def __init__(self, service: str, folder: Path, arguments: Sequence[str] = ()) -> None:
        super().__init__(
            folder,
            environment=environment_of(service),
            program=Path(__file__).with_name(f"{service}_program.py"),
            arguments=arguments,
        )
