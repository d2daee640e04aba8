"""One launched workload with its sidecar: started in order, fed by the agent, ended together.

The sidecar listens before the program runs, so that its first connection finds a way out; that connection is held
until the workload is attested and has its SVID. A sidecar that falls is started again; the workload goes on. Both go
on without an agent too, and the next one takes them over.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from enforcer import session
from enforcer.adopted import AdoptedProcess
from enforcer.attest import Attested, Launch, attest_connection
from enforcer.identity import Identity
from enforcer.native import wire
from enforcer.process import read_stat
from enforcer.sight import Sight
from enforcer.trusted import for_sidecar
from mesh.bundle import TrustBundle
from mesh.clock import format_time
from mesh.problems import Invalid, Problem, Unavailable

READY_WITHIN_S = 20.0
IDENTITY_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
# a sidecar asks ten times a second for its agent's successor
RETURN_WITHIN_S = 10.0
SIDECAR_FALLS = 5

Message = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a workload asked for: (address, port, app port) inbound, (local port, service, port or None) outbound.

    With ``intercept`` all it sends is redirected, and ``egress`` says what that may reach (`enforcer.egress`). With
    ``sdk`` there is no sidecar, and the program itself listens at the ports (`enforcer.inprocess`).
    """

    inbound: tuple[tuple[str, int, int], ...] = ()
    outbound: tuple[tuple[int, str, int | None], ...] = ()
    intercept: bool = False
    egress: tuple[str, ...] = ()
    sdk: bool = False

    def message(self) -> Message:
        """The `listeners` message, but for the port to redirect to."""
        return {
            "type": "listeners",
            "inbound": [{"address": host, "port": port, "app_port": app} for host, port, app in self.inbound],
            "outbound": [
                {"local_port": local, "service": service, "port": port} for local, service, port in self.outbound
            ],
            "egress": list(self.egress),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What every sidecar is told, as it is now: asked again whenever something changed.

    ``back`` is the path of the socket through which sidecars come back to the agent; ``limits`` are those of
    `enforcer.native.limits` that are not the defaults.
    """

    policy: Callable[[], Message]
    endpoints: Callable[[], Message]
    bundles: Callable[[Identity], Mapping[str, TrustBundle]]
    trust: Callable[[], int]
    records: Callable[[Sequence[Mapping[str, object]]], Awaitable[None]]
    flows: Callable[[Sequence[Mapping[str, object]]], None]
    keys: Callable[[], Message]
    missed: Callable[[Sequence[object]], None]
    back: str
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Workload:
    """A program, its sidecar and its identity."""

    def __init__(self, name: str, ports: Ports, feed: Feed, sight: Sight, sidecar_uid: int | None) -> None:
        self.name, self.ports = name, ports
        self.sidecar_uid = sidecar_uid
        self.launch: Launch | None = None
        self.identity: Identity | None = None
        self.applied: tuple[int, str] = (0, "")
        self.handshakes = 0
        self.trusts = 0
        # of a redirected one: its control group, and the port to which its sidecar has it redirected
        self.group = ""
        self.redirect_port = 0
        self._feed, self._sight = feed, sight
        self._identified = asyncio.Event()
        self._ready = asyncio.Event()
        self._failed: Problem | None = None
        self._program: int | None = None
        # by what name its sidecar serves; empty before it has one
        self.spiffe_id = ""
        self.sidecar: tuple[int, int] | None = None
        self.changed: Callable[[], None] = lambda: None
        self._sidecar: subprocess.Popen[bytes] | AdoptedProcess | None = None
        self._returning: asyncio.Future[socket.socket] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_stopping = False
        self._log = structlog.get_logger().bind(workload=name)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopping

    # -- the program

    def adopt(self, handle: int, launched: Launch) -> None:
        """Take on a program that was begun and recorded; its pidfd is this workload's own from now on."""
        self._program, self.launch = handle, launched
        self.changed()
        self._tell_program()

    def take_over(self, sidecar: tuple[int, int], spiffe_id: str) -> None:
        """Expect the sidecar that a predecessor started, with the name by which it serves: it comes back by itself.

        Raises NotFound LM3401 when it is gone.
        """
        self._sidecar, self.sidecar, self.spiffe_id = AdoptedProcess(*sidecar), sidecar, spiffe_id
        self._returning = asyncio.get_running_loop().create_future()
        self._ready.set()

    def take_back(self, sock: socket.socket) -> None:
        """Take the connection of the sidecar that came back; there is one."""
        if self._returning is None or self._returning.done():
            sock.close()
        else:
            self._returning.set_result(sock)

    def _tell_program(self) -> None:
        if self.launch is not None:
            self.tell({"type": "program", "pid": self.launch.pid})

    async def wait_program(self) -> None:
        """Wait for the program's end. Whoever began it reaps it, when it is told to."""
        assert self._program is not None
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._program, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._program)

    def signal_program(self, number: int) -> None:
        """Send the program a signal; one that is gone is left alone."""
        if self._program is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._program, number)

    # -- the identity

    def identify(self, identity: Identity) -> None:
        """Use an SVID from now on."""
        self.identity = identity
        before, self.spiffe_id = self.spiffe_id, str(identity.svid.spiffe_id)
        if before != self.spiffe_id:
            self.changed()
        self._identified.set()
        self.tell(self._identity_message())

    def _identity_message(self) -> Message:
        assert self.identity is not None
        svid = self.identity.svid
        return {
            "type": "identity",
            "spiffe_id": str(svid.spiffe_id),
            "chain": [wire.bytes_to_text(der) for der in svid.chain_der],
            "key": wire.bytes_to_text(svid.key_pkcs8_der),
            "bundles": {
                domain: for_sidecar(bundle, wire.bytes_to_text)
                for domain, bundle in self._feed.bundles(self.identity).items()
            },
            "not_after": format_time(svid.not_after),
            "trust": self._feed.trust(),
        }

    @property
    def is_told(self) -> bool:
        """Whether there is a sidecar to tell: one that is being started again is told everything then."""
        return self._writer is not None

    @property
    def is_serving(self) -> bool:
        """Whether its sidecar holds bundles by which it serves: one that is started anew is told them first."""
        if self._returning is not None:
            return bool(self.spiffe_id)
        return self.identity is not None and self.is_told

    # -- the sidecar

    async def run_sidecar(self) -> None:
        """Keep a sidecar running until `stop`.

        The first start must succeed within 20 s; a sidecar that falls later is started again, five times in a row at
        most, and everything it needs is told anew.
        """
        falls = 0
        if self._returning is not None:
            await self._run_returned_sidecar(self._returning)
        while not self.is_stopping:
            began = asyncio.get_running_loop().time()
            await self._run_sidecar_once()
            if not self._ready.is_set() or self.is_stopping:
                return
            falls = 1 if asyncio.get_running_loop().time() - began > READY_WITHIN_S else falls + 1
            self._log.warning("sidecar fell", falls=falls)
            if falls > SIDECAR_FALLS:
                self.signal_program(signal.SIGTERM)
                return

    async def _run_returned_sidecar(self, returning: asyncio.Future[socket.socket]) -> None:
        """Speak with a predecessor's sidecar; one that does not come back is ended, and another one started."""
        try:
            async with asyncio.timeout(RETURN_WITHIN_S):
                ours = await returning
        except TimeoutError:
            self._log.warning("a sidecar did not come back")
            self._returning = None
            assert self._sidecar is not None
            self._sidecar.kill()
            await self._end_sidecar()
            return
        if self.spiffe_id:
            # it has the SVID of before
            self._identified.set()
        await self._converse(ours, is_new=False)
        self._returning = None

    async def _run_sidecar_once(self) -> None:
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), self._feed.back]
        arguments += [str(self.sidecar_uid)] if self.sidecar_uid is not None else []
        with theirs:
            self._sidecar = subprocess.Popen(  # noqa: S603, ASYNC220  our own module; vfork takes a millisecond
                [sys.executable, "-P", "-m", "enforcer.native", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **_python_environment()},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        if self.identity is None:
            self._identified.clear()
        self.sidecar = self._sidecar.pid, read_stat(self._sidecar.pid).start
        self.changed()
        await self._converse(ours, is_new=True)

    async def _converse(self, ours: socket.socket, *, is_new: bool) -> None:
        """Tell a sidecar everything, and listen to it until it ends; one that came back has its ports."""
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            if is_new:
                port = self.redirect_port if self.ports.intercept else None
                self.tell({**self.ports.message(), "intercept": port, "limits": dict(self._feed.limits)})
            self._tell_program()
            self.tell(self._feed.keys())
            self.tell(self._feed.policy())
            self.tell(self._feed.endpoints())
            if self.identity is not None:
                self.tell(self._identity_message())
            if self._is_stopping:
                # the stop came while there was nobody to tell
                self.tell({"type": "stop"})
            async with asyncio.TaskGroup() as tasks:
                while (message := await wire.read(reader)) is not None:
                    await self._handle(message, tasks)
        except* (Invalid, OSError) as group:
            # a sidecar that was killed, or that speaks another tongue: it is ended, and another one started
            self._log.warning("a sidecar's words could not be read", reason=str(group.exceptions[0]))
        finally:
            self._writer.close()
            self._writer = None
            await self._end_sidecar()

    async def _end_sidecar(self) -> None:
        sidecar = self._sidecar
        if sidecar is None:
            return
        try:
            await asyncio.to_thread(sidecar.wait, STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            sidecar.kill()
            await asyncio.to_thread(sidecar.wait)
        self._sidecar = None

    async def _handle(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        match message["type"]:
            case "ready":
                port = message.get("intercept")
                if isinstance(port, int) and port != self.redirect_port:
                    self.redirect_port = port
                    self.changed()
                self._ready.set()
            case "failed":
                facts = message.get("facts")
                problem = Unavailable(str(message.get("code")), **_facts(facts))
                self._log.warning("sidecar refuses", code=problem.code, reason=problem.message)
                if not self._ready.is_set():
                    self._failed = problem
                    self._ready.set()
            case "attest":
                tasks.create_task(self._attest(message))
            case "records":
                tasks.create_task(self._take_records(message))
            case "flows":
                rows = message.get("flows")
                assert isinstance(rows, list)
                self._feed.flows(rows)
            case "keys_missed":
                sources = message.get("sources")
                self._feed.missed(sources if isinstance(sources, list) else [])
            case "counts" | "applied" | "trusts":
                self._note(message)
            case other:
                raise Invalid("LM3002", reason=f"`{other}` is not spoken here")

    def _note(self, message: Message) -> None:
        """Know how far the sidecar is."""
        match message["type"]:
            case "counts":
                self.handshakes = int(str(message["handshakes"]))
            case "applied":
                self.applied = int(str(message["epoch"])), str(message["snapshot"])
            case "trusts":
                self.trusts = int(str(message["trust"]))

    async def _attest(self, message: Message) -> None:
        """Answer who is behind a held connection; it stays held until the workload has its SVID."""
        source, destination = _address(message.get("source")), _address(message.get("destination"))
        if self.launch is None:
            answer = Attested(code="LM3421", facts={"inode": "unknown"})
        else:
            answer = await asyncio.to_thread(attest_connection, self.launch, source, destination, self._sight)
        if answer.is_ok:
            try:
                async with asyncio.timeout(IDENTITY_WITHIN_S):
                    await self._identified.wait()
            except TimeoutError:
                answer = Attested(code="LM3460", facts={"workload": self.name})
        self.tell(
            {
                "type": "attested",
                "conn": message.get("conn"),
                "ok": answer.is_ok,
                "code": answer.code,
                "facts": dict(answer.facts),
            }
        )

    async def _take_records(self, message: Message) -> None:
        rows = message.get("records")
        assert isinstance(rows, list)
        await self._feed.records(rows)
        # only now: they are on the disk
        self.tell({"type": "ack", "sequence": message.get("sequence")})

    async def wait_ready(self) -> None:
        """Wait until the sidecar listens.

        Raises Unavailable when it does not, with its reason.
        """
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._ready.wait()
        except TimeoutError as err:
            raise Unavailable("LM3461", workload=self.name) from err
        if self._failed is not None:
            raise self._failed

    def tell(self, message: Mapping[str, object]) -> None:
        """Tell the sidecar something; one that is starting is told everything anyway."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.encode(message))

    async def stop(self) -> None:
        """End the program with all of its session, and the sidecar.

        The program was not reaped yet, unless whoever began it is gone: its number is the session's.
        """
        self._is_stopping = True
        if self._program is not None:
            assert self.launch is not None
            await session.end(self.launch.session, STOP_WITHIN_S)
            os.close(self._program)
            self._program = None
        self.tell({"type": "stop"})
        self._ready.set()


def _python_environment() -> dict[str, str]:
    """Where the sidecar's modules are, when they are not installed."""
    return {name: os.environ[name] for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}


def _facts(value: object) -> dict[str, Any]:
    return {str(name): str(fact) for name, fact in value.items()} if isinstance(value, dict) else {}


def _address(value: object) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2 or type(value[1]) is not int:
        raise Invalid("LM3002", reason="an address is a host and a port")
    return str(value[0]), value[1]
