"""The way out of a redirected workload: what it connects to arrives here, and the kernel says where it meant to go.

Denied by default. The address of an endpoint of a service that was named leads to that service, by mutual TLS as from
an explicit port (`enforcer.native.outbound`). An exempt network is connected to as it is; an exempt name by what TLS
asks for, and at the addresses that this sidecar itself finds for it: an address that the program chose counts for
nothing.
Every connection is held until the agent has said who is behind it, as everywhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence

from enforcer.egress import Exempt
from enforcer.native.endpoints import Endpoints
from enforcer.native.judge import Judgement, denied
from enforcer.native.l4 import Splice
from enforcer.native.limits import DEFAULT
from enforcer.native.outbound import Held, Outbound
from enforcer.native.ports import handles_of, has_ipv6, serve
from enforcer.native.reach import CONNECT_SECONDS
from enforcer.native.records import Contact
from enforcer.native.stream import PlainStream
from enforcer.native.workload import Workload
from mesh.clienthello import server_name
from mesh.problems import Invalid
from mesh.request import Decision, Effect, Mode

HELLO_SECONDS = 10
_ORIGINAL_DESTINATION = 80
Address = tuple[str, int]


def original_destination(handle: int) -> Address | None:
    """Where a redirected connection was meant to go (SO_ORIGINAL_DST); None for one that was not redirected."""
    with socket.socket(fileno=os.dup(handle)) as sock:
        try:
            if sock.family == socket.AF_INET:
                found = sock.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
                address: Address = socket.inet_ntop(socket.AF_INET, found[4:8]), struct.unpack_from("!H", found, 2)[0]
            else:
                found = sock.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL_DESTINATION, 28)
                address = socket.inet_ntop(socket.AF_INET6, found[8:24]), struct.unpack_from("!H", found, 2)[0]
            return None if address == sock.getsockname()[:2] else address
        except OSError:
            return None


class Intercept:
    """The port to which a workload's connections are redirected, on both loopback addresses."""

    def __init__(
        self,
        workload: Workload,
        endpoints: Endpoints,
        ask: Callable[[Held], None],
        is_away: Callable[[], bool],
        *,
        port: int,
        exempt: Sequence[Exempt],
        outbound: Callable[[str, int], Outbound],
    ) -> None:
        self._workload, self._endpoints, self.ask, self.is_away = workload, endpoints, ask, is_away
        self.port, self._exempt, self._outbound = port, tuple(exempt), outbound
        self._ways: dict[tuple[str, int], Outbound] = {}
        self._servers: list[asyncio.Server] = []
        self.direct: set[Direct] = set()

    async def listen(self, handles: Sequence[int] = ()) -> int:
        """Open the port and return it; port 0 is any free one.

        Raises Invalid LM3014 when it cannot be had.
        """
        for number, host in enumerate(("127.0.0.1", "::1")):
            handle = handles[number] if number < len(handles) else None
            # a host without IPv6 has no ::1, and nothing to redirect there
            if host == "::1" and handle is None and (handles or not has_ipv6()):
                break
            try:
                server = await serve(lambda: PlainStream(self._connected), host, self.port, handle)
            except Invalid:
                self.close()
                raise
            self._servers.append(server)
            self.port = int(server.sockets[0].getsockname()[1])
        return self.port

    def close(self) -> None:
        """Close the port and everything that came through it."""
        for server in self._servers:
            server.close()
        for way in self._ways.values():
            way.close()
        for direct in list(self.direct):
            direct.abort()

    @property
    def handles(self) -> list[int]:
        """The sockets that it listens on."""
        return handles_of(self._servers)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of what came through the port."""
        return not self.direct and all(way.is_idle for way in self._ways.values())

    def drain(self) -> None:
        """Take nothing new; what is there goes on, and kept-alive connections are told to end with an answer."""
        for server in self._servers:
            server.close()
        self._servers = []
        for way in self._ways.values():
            way.drain()

    def tick(self) -> None:
        """Let a second pass."""
        for way in self._ways.values():
            way.tick()

    def renew(self) -> None:
        """Take notice of another SVID, other bundles or other policies."""
        for way in self._ways.values():
            way.renew()

    def recheck(self) -> None:
        """Close the connections whose other end is not vouched for any more."""
        for way in self._ways.values():
            way.recheck()

    def _connected(self, stream: PlainStream) -> None:
        """Find where a new connection leads.

        1. One that was not redirected is closed: somebody speaks to this port itself.
        2. An endpoint's address is its service's, when that was named; no exempt network leads there.
        3. Otherwise a network or a name may be exempt; a name is known after the first bytes.
        """
        # (1)
        destination = original_destination(stream.descriptor)
        if destination is None or len(self.direct) >= DEFAULT.connections:
            stream.abort()
            return
        stream.pause()
        stream.local = destination
        # (2)
        service = self._service(destination)
        if service is not None:
            way = self._ways.get((service, destination[1]))
            if way is None:
                way = self._ways[service, destination[1]] = self._outbound(service, destination[1])
            way.hold(stream)
            return
        # (3)
        network, names = None, []
        if not self._endpoints.at(destination):
            network = next((item for item in self._exempt if item.covers_address(*destination)), None)
            names = [item for item in self._exempt if item.kind == "dns" and item.port == destination[1]]
        Direct(self, self._workload, stream, destination, network, names)

    def _service(self, destination: Address) -> str | None:
        """The service at an address, if the workload may reach it and the active policies know it."""
        for spiffe_id in self._endpoints.at(destination):
            for item in self._exempt:
                is_service = item.kind == "service" and item.port in {None, destination[1]}
                if is_service and self._workload.judge.is_member(spiffe_id, item.what):
                    return item.what
        return None


class Direct:
    """One connection that leaves the mesh, or does not: what a `Held` asks of its outbound side."""

    def __init__(
        self,
        intercept: Intercept,
        workload: Workload,
        stream: PlainStream,
        destination: Address,
        network: Exempt | None,
        names: Sequence[Exempt],
    ) -> None:
        self._intercept, self._workload, self._stream = intercept, workload, stream
        self._destination, self._network, self._names = destination, network, names
        self._splice: Splice | None = None
        self.is_away = intercept.is_away
        intercept.direct.add(self)
        held = Held(self, stream, time.monotonic_ns())
        if network is None and not names:
            held.refuse("LM3230", self._facts())
        else:
            intercept.ask(held)

    def abort(self) -> None:
        """Close it."""
        self._stream.abort()
        if self._splice is not None:
            self._splice.abort()
        self._intercept.direct.discard(self)

    def connect(self, held: Held) -> None:
        """Go on: the process is the workload's."""
        if self._network is not None:
            self._workload.start(self._reach(held, [self._destination], self._network, b""), self.abort)
        else:
            self._stream.sink = _Greeting(self, held)
            self._stream.resume()

    def asked_for(self, held: Held, name: str, hello: bytes) -> None:
        """Reach a name that TLS asked for, if it is exempt."""
        found = next((item for item in self._names if item.covers_name(name, self._destination[1])), None)
        if found is None:
            held.refuse("LM3230", {**self._facts(), "name": name})
        else:
            self._workload.start(self._reach_name(held, name, found, hello), self.abort)

    async def _reach_name(self, held: Held, name: str, exempt: Exempt, hello: bytes) -> None:
        """Connect to where the name is, by this sidecar's own look-up; never to the host itself or its link."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                rows = await loop.getaddrinfo(name, self._destination[1], type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError):
            rows = []
        addresses = [(str(row[4][0]), self._destination[1]) for row in rows]
        usable = [address for address in dict.fromkeys(addresses) if is_elsewhere(address[0])]
        await self._reach(held, usable, exempt, hello, name)

    async def _reach(
        self, held: Held, addresses: Sequence[Address], exempt: Exempt, hello: bytes, name: str = ""
    ) -> None:
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, other = await loop.create_connection(PlainStream, *address)
            except (OSError, TimeoutError):
                continue
            if held.is_over:
                other.abort()
                return
            held.is_over = True
            facts = {**self._facts(), "address": address[0]} | ({"name": name} if name else {})
            self._record(_allowed(exempt, self._workload.judge.snapshot), facts)
            self._splice = Splice(self._stream, other, self._parted)
            if hello:
                other.write(hello)
            self._stream.resume()
            other.resume()
            return
        held.refuse("LM3232", self._facts())

    def _parted(self, _: Splice) -> None:
        self._intercept.direct.discard(self)

    def forget(self, _: Held) -> None:
        """Let go of it: it was refused, or the program is gone."""
        self._intercept.direct.discard(self)

    def refuse(self, _: PlainStream, code: str, facts: dict[str, object]) -> str:
        """Record a refusal; return the record's id."""
        return self._record(denied(code, self._workload.judge.snapshot), {**self._facts(), **facts})

    def waits_for_disk(self, answer: Callable[[], None], code: str) -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then."""
        return self._workload.waits_for_disk(answer, code)

    def _record(self, decision: Decision, facts: dict[str, object]) -> str:
        contact = Contact(
            direction="outbound",
            port=self._destination[1],
            peer_ip=self._stream.peer[0],
            caller=self._workload.name,
            destination=str(facts["destination"]),
            facts={**facts, "source_port": self._stream.peer[1]},
        )
        judgement = Judgement(decision, None, "", "")
        return self._workload.recorder.decision(contact, judgement, now=self._workload.now(), protocol="tcp")

    def _facts(self) -> dict[str, object]:
        host, port = self._destination
        return {"destination": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}


class _Greeting:
    """Reads a program's first bytes until they name a server; a `Sink`."""

    def __init__(self, direct: Direct, held: Held) -> None:
        self._direct, self._held, self._data = direct, held, bytearray()
        self._timer = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._late)

    def received(self, data: bytes) -> None:
        """Take the next bytes."""
        self._data += data
        try:
            name = server_name(bytes(self._data))
        except Invalid as problem:
            self._give_up(problem.code, dict(problem.facts))
            return
        if name is not None:
            self._timer.cancel()
            self._held.stream.pause()
            self._held.stream.sink = self._held
            self._direct.asked_for(self._held, name, bytes(self._data))

    def _late(self) -> None:
        self._give_up("LM3231", {"reason": f"nothing in {HELLO_SECONDS} s"})

    def _give_up(self, code: str, facts: dict[str, object]) -> None:
        self._timer.cancel()
        self._held.stream.pause()
        self._held.stream.sink = self._held
        self._held.refuse(code, facts)

    def ended(self) -> None:
        """A program that has said nothing wants nothing."""
        self._held.stream.abort()

    def lost(self) -> None:
        """The program is gone."""
        self._timer.cancel()
        self._held.lost()

    def writable(self, *, ready: bool) -> None:
        """Nothing is being sent."""


def _allowed(exempt: Exempt, snapshot: str) -> Decision:
    return Decision(
        effect=Effect.ALLOW, policy_effect=Effect.ALLOW, mode=Mode.ENFORCE, snapshot=snapshot, tier="egress", policy="",
        rule=f"{exempt.kind}:{exempt.what}", code="",
    )  # fmt: skip


def is_elsewhere(address: str) -> bool:
    """Whether an address that a name was found at is neither this host's loopback nor of its link, nor everybody's."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped  # the kernel connects to that one
    return not (found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast)
