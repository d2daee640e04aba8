"""One sidecar process: started on sockets that the agent holds, or come back from a predecessor, and spoken with.

A process serves until it is told to drain: then it takes nothing new, and ends when nothing is left of what it has. It
is told everything that goes on until then, so that a new policy reaches its last stream as well. What its workload
makes of its words, and which process serves in its place, the workload says (`enforcer.workload`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from enforcer.adopted import AdoptedProcess
from enforcer.build import build_of
from enforcer.listening import Doors, adopt_doors, receive_doors
from enforcer.native import wire
from enforcer.ports import Ports
from enforcer.process import read_stat
from mesh.problems import Invalid, Problem, Unavailable

STOP_WITHIN_S = 5.0
# a sidecar asks ten times a second for its agent's successor
RETURN_WITHIN_S = 10.0

Message = dict[str, object]


class Owner(Protocol):
    """What a sidecar process needs of its workload."""

    name: str
    ports: Ports
    sidecar_uid: int | None
    redirect_port: int

    @property
    def is_stopping(self) -> bool:
        """Whether it is ending."""
        ...

    def introduction(self) -> list[Message]:
        """Everything that a sidecar is told before it listens."""
        ...

    def sidecars_changed(self) -> None:
        """Keep what is known of them."""
        ...

    async def take(self, message: Message, source: Beside) -> None:
        """Answer a word that is not about the process itself. Raises Invalid for one that is not spoken here."""
        ...

    def take_brief(self, message: Message) -> bool:
        """Take a word at once, in its order; False for one that `take` answers."""
        ...

    def retire(self, source: Beside) -> None:
        """Find a successor for one that was asked to end."""
        ...

    async def record(self, kind: str, **fields: object) -> None:
        """Record something that happened to it."""
        ...

    @property
    def back(self) -> str:
        """The path through which sidecars come back."""
        ...

    @property
    def terms(self) -> Mapping[str, object]:
        """What a sidecar takes on, where that is not the default, and what its answers wait for."""
        ...


class Beside:
    """A sidecar process, in one of its workload's places."""

    def __init__(self, owner: Owner, place: int) -> None:
        self.place = place
        # its pid and start time, from its start on
        self.process: tuple[int, int] | None = None
        # of which code it is
        self.build = ""
        self.is_draining = False
        self.applied: tuple[int, str] = (0, "")
        self.handshakes = 0
        self.trusts = 0
        # connections of mutual TLS: those that others made, and its own
        self.open = 0, 0
        self.failed: Problem | None = None
        self.ready = asyncio.Event()
        # whether the conversation began, or never will
        self.spoken = asyncio.Event()
        self.over = asyncio.Event()
        self.quiet = asyncio.Event()
        # its records are taken over one batch after the other
        self.records = asyncio.Lock()
        self.has_ended = False
        self._owner = owner
        self._child: subprocess.Popen[bytes] | AdoptedProcess | None = None
        self._returning: asyncio.Future[socket.socket] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._log = structlog.get_logger().bind(workload=owner.name)

    @property
    def is_told(self) -> bool:
        """Whether there is somebody to tell: one that is being started is told everything then."""
        return self._writer is not None

    @property
    def is_awaited(self) -> bool:
        """Whether it is a predecessor's, and has not come back yet."""
        return self._returning is not None and not self.is_told

    # -- a process of our own

    async def run(self, doors: Doors) -> None:
        """Start a process on these sockets, and stay with it to its end."""
        self.build = await asyncio.to_thread(build_of)
        ours, theirs = socket.socketpair()
        uid = self._owner.sidecar_uid
        arguments = [str(theirs.fileno()), self._owner.back, *([str(uid)] if uid is not None else [])]
        handles = tuple(sock.fileno() for sock in doors.all)
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603, ASYNC220  our own module; vfork takes a millisecond
                [sys.executable, "-P", "-m", "enforcer.native", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **_python_environment()},
                pass_fds=(theirs.fileno(), *handles),
                start_new_session=True,
            )
        self.process = self._child.pid, read_stat(self._child.pid).start
        self._owner.sidecars_changed()
        await self._owner.record("sidecar", event="began", pid=self.process[0], place=self.place, build=self.build)
        listeners = {**doors.message(self._owner.ports), **self._owner.terms}
        # it takes what waits in its sockets at once, so that it is told how to serve first
        await self._converse(ours, [*self._owner.introduction(), listeners])

    # -- a predecessor's

    def expect(self, process: tuple[int, int], *, is_draining: bool, build: str) -> None:
        """Expect a predecessor's process to come back. Raises NotFound LM3401 when it is gone."""
        self._child, self.process = AdoptedProcess(*process), process
        self.is_draining, self.build = is_draining, build
        self._returning = asyncio.get_running_loop().create_future()
        self.ready.set()

    def take_back(self, sock: socket.socket) -> None:
        """Take the connection of the process that came back; there is one."""
        if self._returning is None or self._returning.done():
            sock.close()
        else:
            self._returning.set_result(sock)

    async def wait_returned(self) -> Doors | None:
        """Wait for the process, and return the sockets that it brings; None without fitting ones.

        Raises TimeoutError or Invalid when it does not come back, or says something else: it is ended then.
        """
        assert self._returning is not None
        assert self._child is not None
        try:
            async with asyncio.timeout(RETURN_WITHIN_S):
                sock = await self._returning
                sock.setblocking(False)
                socks = await receive_doors(sock)
        except (TimeoutError, Problem, OSError):
            self._log.warning("a sidecar did not come back")
            if self._returning.done() and not self._returning.cancelled():
                self._returning.result().close()
            self._child.kill()
            await self._end()
            self._finish()
            raise
        found = adopt_doors(self._owner.ports, self._owner.redirect_port, socks)
        if found is None:
            for one in socks:
                one.close()
        return found

    async def stay_with_returned(self) -> None:
        """Speak with a process that came back, to its end: it has its ports."""
        assert self._returning is not None
        await self._converse(self._returning.result(), self._owner.introduction())

    # -- the conversation

    async def _converse(self, ours: socket.socket, told: list[Message]) -> None:
        """Tell it everything, and listen to it until it ends."""
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            for word in told:
                self.tell(word)
            if self.is_draining and self._returning is None:
                # somebody took its place before it was there to be told
                self.tell({"type": "drain", "seconds": 0})
            self.spoken.set()
            if self._owner.is_stopping:
                # the stop came while there was nobody to tell
                self.tell({"type": "stop"})
            async with asyncio.TaskGroup() as tasks:
                while (message := await wire.read(reader)) is not None:
                    if not self._note(message) and not self._owner.take_brief(message):
                        tasks.create_task(self._owner.take(message, self))
                self.has_ended = True
        except* (Invalid, OSError) as group:
            # one that was killed, or that speaks another tongue: it is ended, and another one started
            self._log.warning("a sidecar's words could not be read", reason=str(group.exceptions[0]))
        finally:
            self._writer.close()
            self._writer = None
            await self._end()
            self._finish()

    def _finish(self) -> None:
        self.open = 0, 0
        self.spoken.set()
        self.over.set()

    def _note(self, message: Message) -> bool:
        """Know how far it is; False for what is not about the process itself."""
        match message["type"]:
            case "ready":
                self.ready.set()
            case "failed":
                facts = message.get("facts")
                problem = Unavailable(str(message.get("code")), **_facts(facts))
                self._log.warning("sidecar refuses", code=problem.code, reason=problem.message)
                if not self.ready.is_set():
                    self.failed = problem
                    self.ready.set()
            case "counts":
                self.handshakes = int(str(message["handshakes"]))
            case "signals":
                self.open = _two(message.get("open"))
                return False
            case "applied":
                self.applied = int(str(message["epoch"])), str(message["snapshot"])
            case "trusts":
                self.trusts = int(str(message["trust"]))
            case "quiet":
                self.quiet.set()
            case "retire":
                self._owner.retire(self)
            case _:
                return False
        return True

    def tell(self, message: Mapping[str, object]) -> None:
        """Tell it something; one that is starting is told everything anyway."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.encode(message))

    def drain(self, seconds: int) -> None:
        """Have it take nothing new; it ends when what it has is over, in so many seconds at the latest."""
        self.is_draining = True
        self.tell({"type": "drain", "seconds": seconds})
        self._owner.sidecars_changed()

    def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()

    async def _end(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            await asyncio.to_thread(child.wait, STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            await asyncio.to_thread(child.wait)
        if isinstance(child, AdoptedProcess):
            child.close()
        self._child = None


def _python_environment() -> dict[str, str]:
    """Where the sidecar's modules are, when they are not installed."""
    return {name: os.environ[name] for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}


def _two(found: object) -> tuple[int, int]:
    """How many connections a sidecar says are open."""
    is_pair = isinstance(found, list) and [type(count) for count in found] == [int, int]
    return (found[0], found[1]) if isinstance(found, list) and is_pair else (0, 0)


def _facts(value: object) -> dict[str, Any]:
    return {str(name): str(fact) for name, fact in value.items()} if isinstance(value, dict) else {}
