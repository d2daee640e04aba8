"""The listening sockets of a workload, which the agent holds: a sidecar is handed them when it starts.

So they outlive each sidecar. While one takes another's place, or is started again after a fall, what connects waits in
a socket's queue, and nobody is refused. Several sidecars of a workload have a socket each on the same port, among
which the kernel spreads what connects (SO_REUSEPORT, docs/adr/0039-sidecars-take-turns.md). A sidecar that comes back
to a new agent brings its sockets along; they are looked at before they are taken for what they should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Sequence

from enforcer.health import parse_check
from enforcer.native import wire
from enforcer.native.comeback import MAX_HANDLES
from enforcer.native.ports import BACKLOG, has_ipv6
from enforcer.ports import Ports
from mesh.problems import Invalid, Unavailable

_LOOPBACK = ("127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True, slots=True)
class Doors:
    """The sockets of one sidecar, in the order of its workload's ports; those to redirect to are last."""

    inbound: tuple[socket.socket, ...] = ()
    health: tuple[socket.socket, ...] = ()
    outbound: tuple[socket.socket, ...] = ()
    redirected: tuple[socket.socket, ...] = ()

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """All of them, in order."""
        return (*self.inbound, *self.health, *self.outbound, *self.redirected)

    @property
    def redirect_port(self) -> int:
        """The port that is redirected to; 0 without one."""
        return int(self.redirected[0].getsockname()[1]) if self.redirected else 0

    def close(self) -> None:
        """Close our side of them: with the last side what waits in a queue is reset."""
        for sock in self.all:
            sock.close()

    def close_inbound(self) -> None:
        """Close our side of those where others come in: who connects from now on is refused."""
        for sock in (*self.inbound, *self.health):
            sock.close()

    def message(self, ports: Ports) -> wire.Message:
        """The `listeners` message of a sidecar that was started with these sockets."""
        told = ports.message()
        rows = {"inbound": self.inbound, "outbound": self.outbound}
        for name, socks in rows.items():
            found = told[name]
            assert isinstance(found, list)
            told[name] = [{**row, "handle": sock.fileno()} for row, sock in zip(found, socks, strict=True)]
        told["health_handles"] = [sock.fileno() for sock in self.health]
        told["intercept"] = self.redirect_port if ports.intercept else None
        told["intercept_handles"] = [sock.fileno() for sock in self.redirected]
        return told


def open_doors(ports: Ports, redirect_port: int = 0) -> Doors:
    """Open a sidecar's ports; several sidecars of a workload open the same ones.

    Raises Unavailable LM3014 with the address that cannot be had.
    """
    found: list[socket.socket] = []
    shares = ports.workers > 1
    try:
        inbound = [_listen(found, address, port, shares=shares) for address, port, _ in ports.inbound]
        health = [_listen(found, *place, shares=shares) for place in _health_places(ports)]
        outbound = [_listen(found, "127.0.0.1", port, shares=shares) for port, _, _ in ports.outbound]
        redirected: list[socket.socket] = []
        if ports.intercept:
            for host in _LOOPBACK if has_ipv6() else _LOOPBACK[:1]:
                redirected.append(_listen(found, host, redirect_port, shares=shares))
                redirect_port = int(redirected[0].getsockname()[1])
    except Unavailable:
        for sock in found:
            sock.close()
        raise
    return Doors(tuple(inbound), tuple(health), tuple(outbound), tuple(redirected))


def _health_places(ports: Ports) -> list[tuple[str, int]]:
    return [(check.address, check.port) for check in map(parse_check, ports.health)]


def _listen(found: list[socket.socket], host: str, port: int, *, shares: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        found.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as err:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise Unavailable("LM3014", address=where, reason=err.strerror or "in use") from err
    return sock


def adopt_doors(ports: Ports, redirect_port: int, socks: Sequence[socket.socket]) -> Doors | None:
    """Take sockets that a sidecar brought for those of its ports; None when they are not.

    Each is a TCP socket that listens at the address and port in its place.
    """
    wanted = [(address, port) for address, port, _ in ports.inbound]
    wanted += _health_places(ports)
    wanted += [("127.0.0.1", port) for port, _, _ in ports.outbound]
    places = len(wanted)
    if ports.intercept:
        wanted += [(host, redirect_port) for host in _LOOPBACK[: len(socks) - places]]
    if len(wanted) != len(socks) or (ports.intercept and len(socks) == places):
        return None
    if not all(_is_at(sock, *place) for sock, place in zip(socks, wanted, strict=True)):
        return None
    first, second = len(ports.inbound), len(ports.inbound) + len(ports.health)
    return Doors(*(tuple(part) for part in (socks[:first], socks[first:second], socks[second:places], socks[places:])))


def _is_at(sock: socket.socket, host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return (
            sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            and (sock.family, sock.getsockname()[:2]) == (rows[0][0], rows[0][4][:2])
        )
    return False


async def receive_doors(connection: socket.socket) -> list[socket.socket]:
    """Read the first message of a sidecar that comes back, and nothing behind it: the sockets that it brings.

    Raises Invalid LM3001, LM3002 or LM3003 for another message.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    # the length of the frame alone: with its first byte come the sockets
    head, handles, _, _ = socket.recv_fds(connection, wire.LENGTH_BYTES, MAX_HANDLES)
    socks: list[socket.socket] = []
    try:
        socks = _taken(handles)
        body = await _exactly(connection, wire.body_length(head))
        message = wire.decode(body)
        if message["type"] != "handles" or message.get("count") != len(socks):
            raise Invalid("LM3002", reason="a sidecar that comes back brings its sockets first")
    except BaseException:
        for sock in socks:
            sock.close()
        raise
    return socks


def _taken(handles: Sequence[int]) -> list[socket.socket]:
    """The sockets of these numbers. Raises Invalid LM3002, with all of them closed, for what is no socket."""
    socks = []
    try:
        for handle in handles:
            os.set_inheritable(handle, False)
            socks.append(socket.socket(fileno=handle))
    except OSError as err:
        for handle in handles:
            os.close(handle)
        for sock in socks:
            sock.detach()
        raise Invalid("LM3002", reason="a sidecar brings sockets and nothing else") from err
    return socks


async def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(connection, size - len(data))
        if not part:
            raise Invalid("LM3003")
        data += part
    return data
