"""Who is behind a request on `server.sock`: the kernel's word (SO_PEERCRED), put into the request's state."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mesh.peercred import PeerCredentials, peer_credentials


class Peer(PeerCredentials):
    """The process that connected, by the name under which it is recorded."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"unix:uid:{self.uid}"


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that knows its peer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Read the peer's credentials once per connection."""
        super().connection_made(transport)
        found: socket.socket = transport.get_extra_info("socket")
        self.app_state = {**self.app_state, "peer": Peer._make(peer_credentials(found))}
