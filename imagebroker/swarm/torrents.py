"""libtorrent: one torrent for each chunk, between hosts of the fleet and over TLS alone.

The root of a chunk's hash tree is part of its info-hash, so who asks for a torrent has been told
which bytes it has, by a host that has seen a proof, or has these bytes. The fleet's CA is in it
too: libtorrent accepts no peer that has no certificate of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import libtorrent as lt

from imagebroker.swarm import tree
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.start import Start

#: Measured in namespaces with 100 Mbit/s each; nothing outside of the fleet is spoken with.
_SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "mixed_mode_algorithm": int(lt.bandwidth_mixed_algo_t.prefer_tcp),
    "unchoke_interval": 1,
    "unchoke_slots_limit": -1,
    "connection_speed": 200,
    "torrent_connect_boost": 100,
    "connections_limit": 2000,
    "allow_multiple_connections_per_ip": True,
    "send_buffer_watermark": 3 * 1024 * 1024,
    "max_out_request_queue": 1500,
    # One image is not worth more threads.
    "aio_threads": 2,
    "min_reconnect_time": 1,
    "max_failcount": 30,
    "active_limit": -1,
    "announce_to_all_trackers": False,
    "in_enc_policy": int(lt.enc_policy.disabled),
    "out_enc_policy": int(lt.enc_policy.disabled),
    "close_redundant_connections": True,
    "user_agent": NAME,
    "alert_mask": int(
        lt.alert.category_t.status_notification
        | lt.alert.category_t.error_notification
        | lt.alert.category_t.storage_notification
        | lt.alert.category_t.ip_block_notification
        # Of these: who is banned, because what it alone sent of a piece was wrong again and again.
        | lt.alert.category_t.peer_notification
    ),
}
_ALL = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))  # noqa: S104
_BLOCKED = 1
#: libtorrent wants these, although TLS 1.3 does without: the group ffdhe2048 of RFC 7919.
_PARAMETERS = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


#: From so many wrong pieces of a chunk on, libtorrent bans whoever has sent a part of them, too.
_SUSPECT = 4

#: Without `apply_ip_filter` anybody who knows an info-hash could connect.
_FLAGS = (
    lt.torrent_flags.apply_ip_filter
    | lt.torrent_flags.disable_dht
    | lt.torrent_flags.disable_lsd
    | lt.torrent_flags.disable_pex
    | lt.torrent_flags.update_subscribe
)


class Torrents:
    """The chunks of one image."""

    def __init__(self, start: Start, port: int) -> None:
        """`port`: where to listen; 0: anywhere. :raises OSError: it is taken."""
        self._start = start
        parameters = Path(start.spool, "dh.pem")
        parameters.write_text(_PARAMETERS)
        self._files = (start.certificate, start.key, str(parameters), "")
        self._ca = start.identity.ca.read_bytes()
        address = f"[{start.address}]" if ":" in start.address else start.address
        settings: Any = {
            **_SETTINGS,
            "listen_interfaces": f"{address}:{port}s",
            "outgoing_interfaces": start.address,
            "upload_rate_limit": start.upload_limit,
            "download_rate_limit": start.download_limit,
        }
        self._session = lt.session(settings)
        self.allow([])
        self._handles: dict[int, Any] = {}
        self._indexes: dict[str, int] = {}
        #: Bytes of each chunk that are here.
        self._done: dict[int, int] = {}
        self._linked: set[tuple[int, str, int]] = set()
        self._finished: set[int] = set()
        self._banned: list[tuple[int, str]] = []
        #: Pieces of each chunk that were wrong.
        self._failed: dict[int, int] = {}
        self.port = port or int(self._session.ssl_listen_port())

    # -- what there is ---------------------------------------------------------------------------

    def seed(self, index: int, pieces: Sequence[bytes], folder: str) -> None:
        """A chunk that is in this folder of the spool already."""
        self._add(index, pieces, folder, lt.torrent_flags.seed_mode)

    def fetch(self, index: int, pieces: Sequence[bytes], folder: str) -> None:
        """A chunk that others have, into a folder that no other torrent has or had: one that was
        removed may write for a while."""
        self._add(index, pieces, folder, 0)

    def _add(self, index: int, pieces: Sequence[bytes], folder: str, flags: Any) -> None:
        self.remove(index)
        parameters = lt.load_torrent_buffer(self._torrent(index, pieces))
        parameters.save_path = f"{self._start.spool}/{folder}"
        parameters.flags = flags | _FLAGS
        handle = self._session.add_torrent(parameters)
        handle.set_ssl_certificate(*self._files)
        self._handles[index] = handle
        self._indexes[str(handle.info_hashes().v2)] = index

    def _torrent(self, index: int, pieces: Sequence[bytes]) -> bytes:
        """The .torrent of a chunk: the same at every host."""
        layout = self._start.layout
        root = tree.root(pieces, layout.piece)
        file = {b"length": layout.length(index), b"pieces root": root}
        info = {
            b"file tree": {NAME.encode(): {b"": file}},
            b"meta version": 2,
            b"name": NAME.encode(),
            b"piece length": layout.piece,
            b"ssl-cert": self._ca,
        }
        torrent: dict[bytes, Any] = {b"info": info}
        if len(pieces) > 1:
            torrent[b"piece layers"] = {root: b"".join(pieces)}
        return bytes(lt.bencode(torrent))

    def has(self, index: int) -> bool:
        return index in self._handles

    def remove(self, index: int) -> None:
        """Neither send nor fetch it any more; what is there of it stays."""
        self._remove(index, 0)

    def discard(self, index: int) -> None:
        """Fetch it no more, and delete what is there of it."""
        self._remove(index, lt.options_t.delete_files)

    def _remove(self, index: int, flags: Any) -> None:
        handle = self._handles.pop(index, None)
        if handle is not None:
            self._indexes = {key: value for key, value in self._indexes.items() if value != index}
            self._linked = {each for each in self._linked if each[0] != index}
            self._finished.discard(index)
            self._done.pop(index, None)
            self._session.remove_torrent(handle, flags)

    def progress(self, index: int) -> int:
        """Bytes of a chunk that are here, as of the last look but one."""
        return self._done.get(index, 0)

    def look_closer(self) -> None:
        """Ask how far all of them are: one question, which nobody waits for."""
        self._session.post_torrent_updates(0)

    # -- others ----------------------------------------------------------------------------------

    def allow(self, addresses: Collection[str]) -> None:
        """Speak with these alone."""
        rules = lt.ip_filter()
        for first, last in _ALL:
            rules.add_rule(first, last, _BLOCKED)
        for each in addresses:
            rules.add_rule(each, each, 0)
        self._session.set_ip_filter(rules)

    def connect(self, index: int, address: str, port: int) -> None:
        if (index, address, port) not in self._linked:
            self._linked.add((index, address, port))
            self._handles[index].connect_peer((address, port))

    def unlink(self, address: str, port: int) -> None:
        """A host went away: should it come back, it is connected to again."""
        self._linked = {each for each in self._linked if each[1:] != (address, port)}

    def unlink_all(self, index: int) -> None:
        self._linked = {each for each in self._linked if each[0] != index}

    # -- news ------------------------------------------------------------------------------------

    def finished(self) -> list[int]:
        """Chunks that have arrived and are on the disk."""
        self._listen()
        found, self._finished = sorted(self._finished), set()
        return found

    def banned(self) -> list[tuple[int, str]]:
        """Chunks of which an address sent wrong bytes, it alone as far as libtorrent can tell."""
        found, self._banned = self._banned, []
        return found

    def _listen(self) -> None:
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert):
                if (index := self._index(alert)) is not None:
                    self._handles[index].flush_cache()
            elif isinstance(alert, lt.cache_flushed_alert):
                if (index := self._index(alert)) is not None:
                    self._finished.add(index)
            elif isinstance(alert, lt.state_update_alert):
                self._note(alert.status)
            elif isinstance(alert, lt.hash_failed_alert):
                if (index := self._index(alert)) is not None:
                    self._failed[index] = self._failed.get(index, 0) + 1
            elif isinstance(alert, lt.peer_ban_alert):
                index = self._index(alert)
                if index is not None and self._failed.get(index, 0) < _SUSPECT:
                    self._banned.append((index, alert.ip[0]))

    def _note(self, news: Sequence[Any]) -> None:
        for each in news:
            if (index := self._index(each)) is not None:
                self._done[index] = int(each.total_done)

    def _index(self, about: Any) -> int | None:
        """The chunk of an alert or a status; None if its torrent was removed meanwhile."""
        try:
            return self._indexes.get(str(about.handle.info_hashes().v2))
        except RuntimeError:
            return None

    def close(self) -> None:
        self._session.pause()
        self._handles.clear()
        del self._session
