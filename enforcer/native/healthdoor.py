"""The port where health checks from outside the mesh are answered: one path, named networks, and nothing but a status.

Who checks has no certificate. So the request that reaches the workload is the sidecar's own, and of its answer only the
status is told: no byte of the caller's goes in, and none of the workload's comes out. A connection carries one check.
"""

from __future__ import annotations

import asyncio

from enforcer.health import Check
from enforcer.native import answer
from enforcer.native.http1 import Framing, RequestHead, RequestReader, ResponseHead, ResponseReader
from enforcer.native.judge import Judgement, denied
from enforcer.native.limits import DEFAULT, Load
from enforcer.native.ports import handles_of, serve
from enforcer.native.records import Contact
from enforcer.native.workload import Workload
from mesh.problems import Invalid
from mesh.request import Decision, Effect, Mode

MAX_CHECKS_AT_ONCE = 64
ASKED_WITHIN_S = 10
ANSWERED_WITHIN_S = 10
_READ_BYTES = 16 * 1024
_METHODS = frozenset(("GET", "HEAD"))


class HealthDoor:
    """One port for health checks."""

    def __init__(self, workload: Workload, check: Check) -> None:
        self._workload, self._check = workload, check
        self._servers: list[asyncio.Server] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._load = Load(DEFAULT)

    async def listen(self, handle: int | None = None) -> int:
        """Open the port and return it.

        Raises Invalid LM3014 when it cannot be had.
        """
        self._servers = [await serve(self._accept, self._check.address, self._check.port, handle)]
        return int(self._servers[0].sockets[0].getsockname()[1])

    def close(self) -> None:
        """Close the port and everything that came through it."""
        self.drain()
        for writer in list(self._open):
            writer.transport.abort()

    def drain(self) -> None:
        """Take nothing new: who checks learns so that this one is about to end."""
        for server in self._servers:
            server.close()
        self._servers = []

    @property
    def handles(self) -> list[int]:
        """The socket that it listens on."""
        return handles_of(self._servers)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of what came through the port."""
        return not self._open

    def tick(self) -> None:
        """Let a second pass: connections that were closed unanswered are told together."""
        for code, (count, peer_ip) in self._load.take_shed().items():
            self._refuse(code, peer_ip, {"connections": count})

    def _accept(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader()
        return asyncio.StreamReaderProtocol(reader, self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection, unless it comes from elsewhere (LM3233), or is one too many (LM3303)."""
        found = writer.get_extra_info("peername")
        peer_ip = str(found[0]) if isinstance(found, tuple) else ""
        if not self._check.covers(peer_ip) or len(self._open) >= MAX_CHECKS_AT_ONCE:
            self._load.shed("LM3303" if self._check.covers(peer_ip) else "LM3233", peer_ip)
            writer.transport.abort()
            return
        self._open.add(writer)
        self._workload.start(self._serve(reader, writer, peer_ip), writer.transport.abort)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_ip: str) -> None:
        try:
            said = await self._answer(reader, peer_ip)
            if said:
                writer.write(said)
                await writer.drain()
            writer.close()
        except OSError:
            writer.transport.abort()
        finally:
            self._open.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, peer_ip: str) -> bytes:
        """What to answer; nothing to somebody who asked nothing.

        1. The request is read as strictly as a caller's.
        2. It asks for the one path, without a body; all else is denied (LM3234).
        3. The workload is asked, in the sidecar's own words.
        """
        # (1)
        try:
            async with asyncio.timeout(ASKED_WITHIN_S):
                head = await _asked(reader)
        except TimeoutError:
            return answer.problem("LM3112", {}, record=self._refuse("LM3112", peer_ip, {}))
        except Invalid as problem:
            return answer.problem(problem.code, problem.facts, record=self._refuse(problem.code, peer_ip, {}))
        if head is None:
            return b""
        # (2)
        if not self._is_named(head):
            record = self._refuse("LM3234", peer_ip, {}, head)
            return answer.problem("LM3234", {"path": self._check.path}, record=record, with_body=head.method != "HEAD")
        # (3)
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                status = await self._ask()
        except (OSError, TimeoutError):
            status = answer.status_of("LM3300")[0]
        except Invalid:
            status = answer.status_of("LM3302")[0]
        self._record(self._allowed(), self._contact(peer_ip, None), head)
        self._workload.signals.request(self._check.port, "", "allowed", status, None)
        return _status(status)

    def _is_named(self, head: RequestHead) -> bool:
        is_plain = head.framing is Framing.NONE or head.declared_length == 0
        is_plain = is_plain and not head.websocket_key and not head.expects_continue
        return head.method in _METHODS and head.target == self._check.path and is_plain

    async def _ask(self) -> int:
        """The status that the workload answers with. Raises OSError, and Invalid LM3302 for what is no response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._check.app_port)
        try:
            writer.write(
                b"GET %b HTTP/1.1\r\nhost: localhost\r\nuser-agent: limen-health\r\nconnection: close\r\n\r\n"
                % self._check.path.encode("ascii")
            )
            found, head = ResponseReader(), None
            while head is None:
                found.feed(await _some(reader))
                head = _final(found)
            return head.status
        finally:
            writer.transport.abort()

    def _refuse(self, code: str, peer_ip: str, facts: dict[str, object], head: RequestHead | None = None) -> str:
        self._workload.signals.request(self._check.port, "", "refused", None, None)
        return self._record(denied(code, self._workload.judge.snapshot), self._contact(peer_ip, facts), head)

    def _contact(self, peer_ip: str, facts: dict[str, object] | None) -> Contact:
        return Contact(
            direction="inbound", port=self._check.port, peer_ip=peer_ip, destination=self._workload.name, facts=facts
        )

    def _allowed(self) -> Decision:
        return Decision(
            effect=Effect.ALLOW, policy_effect=Effect.ALLOW, mode=Mode.ENFORCE, snapshot=self._workload.judge.snapshot,
            tier="health", policy="", rule=f"{self._check.path}@{','.join(self._check.networks)}"[:200], code="",
        )  # fmt: skip

    def _record(self, decision: Decision, contact: Contact, head: RequestHead | None) -> str:
        return self._workload.recorder.decision(
            contact, Judgement(decision, None, "", ""), now=self._workload.now(), protocol="http" if head else "tcp",
            method=head.method if head else None, host=head.host_name if head else None,
            target=head.target if head else None,
        )  # fmt: skip


async def _asked(reader: asyncio.StreamReader) -> RequestHead | None:
    """The head of the one request; None when the connection ends before it does. Raises Invalid LM31.. ."""
    found = RequestReader()
    while (head := found.head()) is None:
        data = await reader.read(_READ_BYTES)
        if not data:
            return None
        found.feed(data)
    return head


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ_BYTES)
    if not data:
        raise Invalid("LM3302", rule="it answers before it closes")
    return data


def _final(found: ResponseReader) -> ResponseHead | None:
    """The head of the answer, behind interim ones that have arrived; None while it has not."""
    head = found.head("GET")
    while head is not None and head.status < 200:
        head = found.head("GET")
    return head


def _status(status: int) -> bytes:
    length = b"" if status in {204, 304} else b"content-length: 0\r\n"
    return b"HTTP/1.1 %d \r\n%bcache-control: no-store\r\nconnection: close\r\n\r\n" % (status, length)
