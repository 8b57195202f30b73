"""Faults for backends on the network, without a line of code of the backend's own.

::

    from imagebroker.testing import faults

    with faults.TcpProxy("127.0.0.1", server.port, faults.Fault(cut_after=1000)) as proxy:
        ...  # let the backend speak to proxy.port: the connection breaks after 1000 bytes

    with faults.HttpProxy("127.0.0.1", server.port, faults.Lie(ignore_ranges=True)) as proxy:
        ...  # the same for HTTP: a server that lies about lengths, ranges, versions, places

    with faults.few_descriptors(3):
        ...  # the fourth file or socket is EMFILE

`BackendContract` puts them between a backend and its server by itself.
"""

from __future__ import annotations

from imagebroker.testing.faults.descriptors import few_descriptors
from imagebroker.testing.faults.http_proxy import HONEST, Exchange, Head, HttpProxy, HttpWires, Lie
from imagebroker.testing.faults.tcp_proxy import NO_FAULT, Fault, Passage, TcpProxy, Wires

__all__ = [
    "HONEST",
    "NO_FAULT",
    "Exchange",
    "Fault",
    "Head",
    "HttpProxy",
    "HttpWires",
    "Lie",
    "Passage",
    "TcpProxy",
    "Wires",
    "few_descriptors",
]
