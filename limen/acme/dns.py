"""A small stub resolver: TXT, A and AAAA by UDP, then TCP when an answer was cut. Bounded, no cache, no search list.

Answers are believed when they come from the resolver that was asked, with the number and question that were asked
(RFC 5452 §9). Aliases are followed within one answer, as recursive resolvers give them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import secrets
import struct
from collections.abc import Callable

from mesh.dnswire import AAAA, TXT, A, answers, query
from mesh.problems import Invalid

TIMEOUT_S, TRIES = 3.0, 2
Server = tuple[str, int]


def text(data: bytes) -> str:
    """The strings of a TXT record, joined."""
    found, at = b"", 0
    while at < len(data):
        found += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return found.decode("latin-1")


def system_server(path: pathlib.Path = pathlib.Path("/etc/resolv.conf")) -> Server:
    """The first resolver of this host.

    Raises Invalid LM1415 when it has none.
    """
    try:
        for line in path.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                return str(ipaddress.ip_address(words[1].partition("%")[0])), 53
    except (OSError, ValueError):
        pass
    raise Invalid("LM1415", name="resolv.conf", reason="no resolver is configured")


class Resolver:
    """Asks one resolver; ``server`` says which, at every question."""

    def __init__(self, server: Callable[[], Server | None]) -> None:
        self._server = server

    async def txt(self, name: str) -> list[str]:
        """The texts of a name; empty when it has none.

        Raises Invalid LM1415.
        """
        return [text(item) for item in await self._ask(name, TXT)]

    async def addresses(self, name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """The addresses of a name, IPv6 first: by the configured resolver, else as this host finds names.

        Raises Invalid LM1415.
        """
        if self._server() is not None:
            six = [ipaddress.ip_address(item) for item in await self._ask(name, AAAA) if len(item) == 16]
            return six + [ipaddress.ip_address(item) for item in await self._ask(name, A) if len(item) == 4]
        try:
            async with asyncio.timeout(TIMEOUT_S * TRIES):
                rows = await asyncio.get_running_loop().getaddrinfo(name, None, proto=6)
        except (OSError, UnicodeError, TimeoutError) as err:
            raise Invalid("LM1415", name=name, reason=str(err) or "it took too long") from err
        return list(dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows))

    async def _ask(self, name: str, kind: int) -> list[bytes]:
        server = self._server() or system_server()
        asked = query(name, kind, secrets.randbelow(65536))
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    data, is_cut, status = await _by_udp(server, asked, kind)
                    if is_cut:
                        data, _, status = answers(await _by_tcp(server, asked), asked, kind)
            except (OSError, TimeoutError, ValueError, EOFError):
                continue
            if status not in {0, 3}:
                raise Invalid("LM1415", name=name, reason=f"the resolver answers with status {status}")
            return data
        raise Invalid("LM1415", name=name, reason="the resolver does not answer")


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, asked: bytes, kind: int) -> None:
        self._asked, self._kind = asked, kind
        self.found: asyncio.Future[tuple[list[bytes], bool, int]] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        try:
            found = answers(data, self._asked, self._kind)
        except ValueError:
            # a stranger's; the right one may still come
            return
        if not self.found.done():
            self.found.set_result(found)

    def error_received(self, exc: Exception) -> None:
        if not self.found.done():
            self.found.set_exception(exc)


async def _by_udp(server: Server, asked: bytes, kind: int) -> tuple[list[bytes], bool, int]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(asked, kind), remote_addr=server
    )
    try:
        transport.sendto(asked)
        return await protocol.found
    finally:
        transport.close()


async def _by_tcp(server: Server, asked: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack(">H", len(asked)) + asked)
        size = struct.unpack(">H", await reader.readexactly(2))[0]
        return await reader.readexactly(size)
    finally:
        writer.close()
