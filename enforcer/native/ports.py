"""Opens a sidecar's ports: on sockets that the agent holds and handed over, or by itself where it was given none.

A socket that the agent holds outlives the sidecar: what connects while one sidecar takes another's place waits in the
socket's queue, and nothing is refused. Closing our side of it ends nothing but our taking from that queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from mesh.problems import Invalid

BACKLOG = 1024


async def serve(
    protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int, handle: int | None = None
) -> asyncio.Server:
    """Take connections at an address, or from the open socket of this number.

    Raises Invalid LM3014 when the address cannot be had, or when there is no such socket.
    """
    loop = asyncio.get_running_loop()
    try:
        if handle is None:
            return await loop.create_server(protocol, host, port, backlog=BACKLOG)
        sock = socket.socket(fileno=handle)
        sock.setblocking(False)
        return await loop.create_server(protocol, sock=sock, backlog=BACKLOG)
    except OSError as err:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise Invalid("LM3014", address=where, reason=err.strerror or "in use") from err


def handles_of(servers: list[asyncio.Server]) -> list[int]:
    """The numbers of the sockets that are listened on, in order."""
    return [sock.fileno() for server in servers for sock in server.sockets[:1]]


def has_ipv6() -> bool:
    """Whether this network namespace has an IPv6 loopback address."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False
