"""A TCP proxy that puts faults between a client and a real server: that of the conformance kit."""

from __future__ import annotations

from imagebroker.testing.faults.tcp_proxy import NO_FAULT, Fault, Passage, TcpProxy

__all__ = ["NO_FAULT", "Fault", "Passage", "TcpProxy"]
