"""Who is behind a request on `server.sock`: the kernel's word (SO_PEERCRED), put into the request's state."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_UCRED = struct.Struct("3i")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, as the kernel saw it at that moment."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"unix:uid:{self.uid}"


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that knows its peer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Read the peer's credentials once per connection."""
        super().connection_made(transport)
        found: socket.socket = transport.get_extra_info("socket")
        pid, uid, gid = _UCRED.unpack(found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self.app_state = {**self.app_state, "peer": Peer(pid=pid, uid=uid, gid=gid)}
