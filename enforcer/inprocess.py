"""A launched workload that carries its enforcer inside (`enforcer.sdk`): no sidecar, the program itself is fed.

Its processes connect at the socket where sidecars come back. Who connects is known by the kernel's word and held
against the launch, as every caller of `agent.sock` is, at the beginning and again before it is told a key and before
its records are taken. The key goes to the program itself, so its identity rule says `direct: true`.
What such a program reports is its own word: it is stamped with the workload's name, and can speak of no other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping, Sequence

from audit.record import check_record
from enforcer.attest import check_member
from enforcer.native import wire
from enforcer.ports import Ports
from enforcer.process import read_stat
from enforcer.sight import Sight
from enforcer.workload import STOP_WITHIN_S, Feed, Message, Workload
from enforcer.workloadfront import Caller
from mesh.problems import Invalid, Problem

MAX_PROCESSES = 64
MAX_UNREAD_BYTES = 64 * 1024 * 1024
_KINDS = frozenset(("decision", "lost"))


@dataclasses.dataclass(slots=True, eq=False)
class _Session:
    """One process of the workload, for as long as it is connected."""

    caller: Caller
    writer: asyncio.StreamWriter
    applied: tuple[int, str] = (0, "")
    trusts: int = 0
    handshakes: int = 0


class InProcess(Workload):
    """A program that enforces by itself."""

    def __init__(self, name: str, ports: Ports, feed: Feed, sight: Sight) -> None:
        super().__init__(name, ports, feed, sight, None)
        self._sessions: list[_Session] = []
        self._conversations: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._past = 0

    @property
    def is_told(self) -> bool:
        """Whether some process of it is connected."""
        return bool(self._sessions)

    @property
    def is_serving(self) -> bool:
        """Whether some process of it holds bundles."""
        return self.identity is not None and bool(self._sessions)

    @property
    def applied(self) -> tuple[int, str]:
        """The release that every process of it applies."""
        return min((found.applied for found in self._sessions), default=(0, ""))

    @property
    def trusts(self) -> int:
        """The trust state that every process of it holds."""
        return min((found.trusts for found in self._sessions), default=0)

    @property
    def handshakes(self) -> int:
        """Mutual TLS handshakes of all its processes, those that ended included."""
        return self._past + sum(found.handshakes for found in self._sessions)

    def admits(self, caller: Caller) -> bool:
        """Whether a caller is this workload's own process, now: the very one that connected, and a member still."""
        if self.launch is None or not caller.is_alive:
            return False
        try:
            return read_stat(caller.pid).start == caller.start and check_member(self.launch, caller.pid) is None
        except Problem:
            return False

    def take_in(self, sock: socket.socket, caller: Caller) -> None:
        """Converse with a process of the workload; too many are hung up on."""
        if len(self._conversations) >= MAX_PROCESSES:
            os.close(caller.pidfd)
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock, caller))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def run_sidecar(self) -> None:
        """There is none: the workload is ready at once, and its conversations end with it."""
        await self._over.wait()
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=STOP_WITHIN_S)
            for task in late:
                task.cancel()

    async def wait_ready(self) -> None:
        """There is nothing to wait for."""

    async def upgrade(self) -> None:
        """There is nothing that another could take the place of: the program is upgraded by whoever runs it."""

    async def quieten(self) -> None:
        """The program itself sees to its callers when it is told to end."""

    async def stop(self) -> None:
        """End the program, and what is said with it."""
        await super().stop()
        self._over.set()

    def tell(self, message: Mapping[str, object]) -> None:
        """Tell every process of it something.

        1. A key only goes to a workload whose rule says so, and to a process that is a member still.
        2. A process that does not read is hung up on: it comes back and is told everything.
        """
        # (1)
        is_secret = message["type"] == "identity"
        if is_secret and (self.identity is None or not self.identity.direct):
            self._log.error("no identity", code="LM3504", reason="the identity rule does not say `direct: true`")
            return
        data = wire.encode(message)
        for session in self._sessions:
            # (2)
            if (is_secret and not self.admits(session.caller)) or _is_stuck(session.writer):
                session.writer.transport.abort()
            else:
                session.writer.write(data)

    async def _serve(self, sock: socket.socket, caller: Caller) -> None:
        """Tell a process everything, and listen to it until it ends."""
        reader, writer = await asyncio.open_connection(sock=sock)
        session = _Session(caller, writer)
        try:
            for message in self._all_of_it():
                writer.write(wire.encode(message))
            self._sessions.append(session)
            if self.identity is not None:
                self.tell(self._identity_message())
            while (found := await wire.read(reader)) is not None and self.admits(caller):
                await self._hear(session, found)
        except (Problem, OSError) as problem:
            self._log.warning("a program's words could not be taken", pid=caller.pid, reason=str(problem))
        finally:
            if session in self._sessions:
                self._sessions.remove(session)
            self._past += session.handshakes
            writer.close()
            os.close(caller.pidfd)

    def _all_of_it(self) -> list[Message]:
        assert self.launch is not None
        serves = [{"address": address, "port": port} for address, port, _ in self.ports.inbound]
        return [
            {"type": "listeners", "inbound": [], "outbound": [], "egress": [], "intercept": None, "serves": serves},
            {"type": "program", "pid": self.launch.pid},
            self._feed.keys(),
            self._feed.policy(),
            self._feed.endpoints(),
        ]

    async def _hear(self, session: _Session, message: Message) -> None:
        match message["type"]:
            case "records":
                await self._feed.records(stamped(_rows(message, "records"), self.spiffe_id))
                # only now: they are on the disk
                session.writer.write(wire.encode({"type": "ack", "sequence": message.get("sequence")}))
            case "flows":
                self._feed.flows(stamped_flows(_rows(message, "flows"), self.spiffe_id))
            case "signals":
                self._feed.signals(self.name, message)
            case "keys_missed":
                sources = message.get("sources")
                self._feed.missed(sources if isinstance(sources, list) else [])
            case "failed":
                self._log.warning("a program refuses", pid=session.caller.pid, code=str(message.get("code")))
            case "applied":
                session.applied = _number(message, "epoch"), str(message.get("snapshot"))
            case "trusts":
                session.trusts = _number(message, "trust")
            case "counts":
                session.handshakes = _number(message, "handshakes")
            case "ready":
                pass
            case other:
                raise Invalid("LM3002", reason=f"`{other}` is not spoken here")


def stamped(rows: Sequence[Mapping[str, object]], spiffe_id: str) -> list[dict[str, object]]:
    """Decision records as this workload may report them: from itself, and about itself.

    Whoever it says called it, or was called, is its own word; the source says whose.
    Raises Invalid LM6002 for what is no record, LM3002 for one of a kind that only others make.
    """
    found = []
    for row in rows:
        check_record(row)
        if row["kind"] not in _KINDS or not spiffe_id:
            raise Invalid("LM3002", reason="a program reports decisions of its own")
        own = {"source": f"sdk:{spiffe_id}"}
        if row["kind"] == "decision":
            own["caller" if row.get("direction") == "outbound" else "destination"] = spiffe_id
        found.append({**row, **own})
    return found


def stamped_flows(rows: Sequence[Mapping[str, object]], spiffe_id: str) -> list[dict[str, object]]:
    """Flows as this workload may report them: one end of each is itself."""
    return [
        {**row, "sensor": f"sdk:{spiffe_id}"} | ({} if row.get("source") == spiffe_id else {"destination": spiffe_id})
        for row in rows
    ]


def refuse(connection: socket.socket, code: str) -> None:
    """Tell a process that connected that it is nobody's, and hang up."""
    with contextlib.suppress(OSError):
        connection.send(wire.encode({"type": "failed", "code": code, "facts": {}}))
        connection.send(wire.encode({"type": "stop"}))
    connection.close()


def _is_stuck(writer: asyncio.StreamWriter) -> bool:
    return writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES


def _rows(message: Message, name: str) -> list[dict[str, object]]:
    rows = message.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Invalid("LM3002", reason=f"`{name}` is a list of objects")
    return rows


def _number(message: Message, name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise Invalid("LM3002", reason=f"`{name}` is a whole number")
    return value
