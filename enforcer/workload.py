"""One launched workload with its sidecar: started in order, fed by the agent, ended together.

The sidecar listens before the program runs, so that its first connection finds a way out; that connection is held
until the workload is attested and has its SVID. A sidecar that falls is started again on the sockets that the agent
holds (`enforcer.listening`), and one that is to be another takes over from it in the same way, while the old one ends
what it has; the workload goes on. Both go on without an agent too, and the next one takes them over.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import os
import select
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from enforcer import session
from enforcer.attest import Attested, Launch, attest_connection
from enforcer.beside import Beside
from enforcer.build import build_of
from enforcer.identity import Identity
from enforcer.kept import KeptSidecar
from enforcer.listening import Doors, open_doors
from enforcer.native import wire
from enforcer.ports import Ports
from enforcer.sight import Sight
from enforcer.trusted import for_sidecar
from mesh.bundle import TrustBundle
from mesh.clock import format_time
from mesh.problems import Forbidden, Invalid, NotFound, Problem, Unavailable

# a machine that is busy takes its time to start a sidecar; one that lived for so long fell for no reason of its start
READY_WITHIN_S = 60.0
STEADY_S = 20.0
# how long a batch waits that the disk refused
RECORDS_AGAIN_S = 0.5
IDENTITY_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
ASK_AGAIN = dt.timedelta(seconds=5)
# how long answers under way may take before their program is ended
QUIET_WITHIN_S = 10.0
SIDECAR_FALLS = 5
# how long streams go on in a sidecar whose place another one has taken
DRAIN_S = 600

Message = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What every sidecar is told, as it is now: asked again whenever something changed.

    ``back`` is the path of the socket through which sidecars come back to the agent; ``limits`` are those of
    `enforcer.native.limits` that are not the defaults; ``keeps_denials`` has answers wait for this host's disk.
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
    keeps_denials: bool = False
    tracing: Message | None = None
    emit: Callable[..., Awaitable[None]] | None = None
    signals: Callable[[str, Mapping[str, object]], None] = lambda *_: None
    spans: Callable[[str, Mapping[str, object]], None] = lambda *_: None


class Workload:
    """A program, its sidecars and its identity."""

    def __init__(self, name: str, ports: Ports, feed: Feed, sight: Sight, sidecar_uid: int | None) -> None:
        self.name, self.ports = name, ports
        self.sidecar_uid = sidecar_uid
        self.launch: Launch | None = None
        self.identity: Identity | None = None
        # why it was given none when it was asked for last, and until when nobody asks again
        self.refusal: Problem | None = None
        self._ask_at = dt.datetime.min.replace(tzinfo=dt.UTC)
        # of a redirected one: its control group, and the port to which its sidecar has it redirected
        self.group = ""
        self.redirect_port = 0
        self._feed, self._sight = feed, sight
        self._identified = asyncio.Event()
        self._program: int | None = None
        # by what name its sidecars serve; empty before it has one
        self.spiffe_id = ""
        self.changed: Callable[[], None] = lambda: None
        # who serves in each place, all processes that there are, and the sockets of each place
        self._places: list[Beside] = [Beside(self, place) for place in range(ports.workers)]
        self._all: list[Beside] = list(self._places)
        self._doors: dict[int, Doors] = {}
        self._falls: dict[int, int] = {}
        self._past_handshakes = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._replacing = asyncio.Lock()
        self._is_stopping = False
        self._log = structlog.get_logger().bind(workload=name)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopping

    @property
    def sidecars(self) -> tuple[Beside, ...]:
        """All its sidecar processes, those that drain included."""
        return tuple(found for found in self._all if found.process is not None)

    @property
    def back(self) -> str:
        """The path through which sidecars come back."""
        return self._feed.back

    @property
    def terms(self) -> Mapping[str, object]:
        """What a sidecar takes on, where that is not the default, and what its answers wait for."""
        return {"limits": dict(self._feed.limits), "keeps_denials": self._feed.keeps_denials}

    # -- the program

    def adopt(self, handle: int, launched: Launch) -> None:
        """Take on a program that was begun and recorded; its pidfd is this workload's own from now on."""
        self._program, self.launch = handle, launched
        self.changed()
        self._tell_program()

    def take_over(self, sidecars: Sequence[KeptSidecar], spiffe_id: str) -> None:
        """Expect the sidecars that a predecessor started, with the name by which they serve: they come back themselves.

        In a place whose sidecar is gone another one is started.
        """
        for kept in sidecars:
            found = Beside(self, kept.place)
            with contextlib.suppress(NotFound):
                found.expect(kept.process, is_draining=kept.is_draining, build=kept.build)
                self.spiffe_id = spiffe_id
                self._all.append(found)
                if not kept.is_draining and kept.place < len(self._places):
                    self._all.remove(self._places[kept.place])
                    self._places[kept.place] = found

    def take_back(self, process: tuple[int, int], sock: socket.socket) -> None:
        """Take the connection of a sidecar that came back; there is one."""
        for found in self._all:
            if found.process == process:
                found.take_back(sock)
                return
        sock.close()

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
        self.identity, self.refusal = identity, None
        before, self.spiffe_id = self.spiffe_id, str(identity.svid.spiffe_id)
        if before != self.spiffe_id:
            self.changed()
        self._identified.set()
        self.tell(self._identity_message())

    def is_due(self, now: dt.datetime) -> bool:
        """Whether to ask for an SVID: there is none, or it is at half its life; not at once after a refusal."""
        if self.launch is None or now < self._ask_at:
            return False
        return self.identity is None or now >= self.identity.renew_at

    def refuse(self, problem: Problem, now: dt.datetime) -> None:
        """Go on with what it has. It is said once; changed rules are heard of, so nobody asks for it every second."""
        if str(problem) != str(self.refusal):
            self._log.warning("no identity", reason=str(problem), help=problem.help)
        self.refusal = problem
        # what the rules refuse they refuse again; anything else may be over in a moment
        self._ask_at = now + (ASK_AGAIN if isinstance(problem, Forbidden) else dt.timedelta(0))

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

    def introduction(self) -> list[Message]:
        """Everything that a sidecar is told before it listens."""
        told: list[Message] = []
        if self.launch is not None:
            told.append({"type": "program", "pid": self.launch.pid})
        told += [self._feed.keys(), self._feed.policy(), self._feed.endpoints()]
        if self.identity is not None:
            told.append(self._identity_message())
        if self._feed.tracing is not None:
            told.append(self._feed.tracing)
        return told

    @property
    def is_told(self) -> bool:
        """Whether there is a sidecar to tell: one that is being started again is told everything then."""
        return any(found.is_told for found in self._all)

    @property
    def is_serving(self) -> bool:
        """Whether a sidecar holds bundles by which it serves: one that is started anew is told them first."""
        return any(self._serves(found) for found in self._all)

    def _serves(self, found: Beside) -> bool:
        if found.is_awaited:
            return bool(self.spiffe_id)
        return self.identity is not None and found.is_told

    @property
    def applied(self) -> tuple[int, str]:
        """The release that every sidecar applies: epoch and hash of the one that is furthest behind."""
        return min((found.applied for found in self._all if found.is_told or found.is_awaited), default=(0, ""))

    @property
    def trusts(self) -> int:
        """The trust state that every sidecar holds which serves."""
        return min((found.trusts for found in self._all if self._serves(found)), default=0)

    @property
    def handshakes(self) -> int:
        """Mutual TLS handshakes of all its sidecars, those that ended included."""
        return self._past_handshakes + sum(found.handshakes for found in self._all)

    @property
    def open_connections(self) -> tuple[int, int]:
        """Mutual TLS connections of all its sidecars: those that others made, and their own."""
        return sum(found.open[0] for found in self._all), sum(found.open[1] for found in self._all)

    def sidecar_rows(self) -> list[Message]:
        """What its sidecars are, for people."""
        return [
            {"pid": found.process[0], "place": found.place, "draining": found.is_draining}
            for found in self._all
            if found.process is not None
        ]

    # -- the sidecars

    async def run_sidecar(self) -> None:
        """Keep a sidecar running in each place until `stop`.

        The first start must succeed within `READY_WITHIN_S`; a sidecar that falls later is started again, five times
        in a row at most, and everything it needs is told anew.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for found in list(self._all):
                    self._tasks.create_task(self._supervise(found))
                if any(found.is_awaited for found in self._all):
                    self._tasks.create_task(self._renew_returned())
        finally:
            self._tasks = None
            for doors in self._doors.values():
                doors.close()

    def _open(self, place: int) -> Doors:
        """The sockets of a place, opened if it has none. Raises Unavailable LM3014."""
        found = self._doors.get(place)
        if found is None:
            found = self._doors[place] = open_doors(self.ports, self.redirect_port)
            if found.redirect_port != self.redirect_port:
                self.redirect_port = found.redirect_port
                self.changed()
        return found

    async def _supervise(self, found: Beside) -> None:
        """Stay with a process to its end; put another one in its place if it fell there."""
        began = asyncio.get_running_loop().time()
        try:
            if found.is_awaited:
                await self._take_back(found)
            else:
                await found.run(self._open(found.place))
            await self._tell_end(found)
        except Unavailable as problem:
            # its ports cannot be had: at the first start whoever waits for it hears why
            found.failed = problem
            found.ready.set()
        finally:
            self._all.remove(found)
            self._past_handshakes += found.handshakes
        self.changed()
        if self.is_stopping or self._places[found.place] is not found:
            return
        if self.launch is None and (found.failed is not None or not found.ready.is_set()):
            return
        lived = asyncio.get_running_loop().time() - began
        falls = self._falls[found.place] = 1 if lived > STEADY_S else self._falls.get(found.place, 0) + 1
        self._log.warning("sidecar fell", falls=falls)
        if falls > SIDECAR_FALLS:
            self.signal_program(signal.SIGTERM)
            return
        self._places[found.place] = self._begin(found.place)

    async def _tell_end(self, found: Beside) -> None:
        pid = found.process[0] if found.process is not None else None
        await self.record("sidecar", event="ended", pid=pid, place=found.place, spiffe_id=self.spiffe_id or None)

    def _begin(self, place: int) -> Beside:
        found = Beside(self, place)
        self._all.append(found)
        assert self._tasks is not None
        self._tasks.create_task(self._supervise(found))
        return found

    async def _take_back(self, found: Beside) -> None:
        """Speak with a predecessor's sidecar; one that does not come back is ended, and another one started."""
        try:
            doors = await found.wait_returned()
        except (TimeoutError, Problem, OSError):
            return
        if self.spiffe_id:
            # it has the SVID of before
            self._identified.set()
        if doors is not None and not found.is_draining and self._places[found.place] is found:
            self._doors[found.place] = doors
        elif doors is not None:
            doors.close()
        await found.stay_with_returned()

    async def _renew_returned(self) -> None:
        """Once a predecessor's sidecars are back, put others in place of those of other code, or without sockets."""
        places = list(self._places)
        for found in places:
            await found.spoken.wait()
        build = await asyncio.to_thread(build_of)
        for found in places:
            is_other = found.build != build or found.place not in self._doors
            if is_other and found.is_told and self._places[found.place] is found and not self.is_stopping:
                self._log.info("a sidecar of other code is taken over from", place=found.place)
                with contextlib.suppress(Problem):
                    await self._replace(found.place)

    async def upgrade(self) -> None:
        """Put another process in the place of each sidecar, on the same sockets; the one before drains.

        Raises Unavailable when one does not get to listen: then the one before goes on serving.
        """
        for place in range(len(self._places)):
            await self._replace(place)

    async def _replace(self, place: int) -> None:
        """Put another process in a place.

        1. It is told everything, listens, and takes from the same sockets.
        2. Only then the one before takes nothing new, and ends what it has.

        Raises Unavailable LM3461 or with what the sidecar says.
        """
        async with self._replacing:
            if self._tasks is None or self.is_stopping:
                raise Unavailable("LM3461", workload=self.name)
            # (1)
            found = self._begin(place)
            try:
                await self._wait_one(found)
            except Unavailable:
                found.kill()
                raise
            # (2)
            before, self._places[place] = self._places[place], found
            before.drain(DRAIN_S)

    def retire(self, source: Beside) -> None:
        """Put another process in the place of one that was asked to end."""
        if self._tasks is not None and self._places[source.place] is source and not self.is_stopping:
            self._tasks.create_task(self._retire(source.place))

    async def _retire(self, place: int) -> None:
        with contextlib.suppress(Problem):
            await self._replace(place)

    def sidecars_changed(self) -> None:
        """Keep what is known of the sidecars."""
        self.changed()

    def take_brief(self, message: Message) -> bool:
        """Take a word at once, in its order; False for one that `take` answers."""
        match message["type"]:
            case "flows":
                rows = message.get("flows")
                assert isinstance(rows, list)
                self._feed.flows(rows)
            case "keys_missed":
                sources = message.get("sources")
                self._feed.missed(sources if isinstance(sources, list) else [])
            case "signals":
                self._feed.signals(self.name, message)
            case "spans":
                self._feed.spans(self.spiffe_id, message)
            case _:
                return False
        return True

    async def take(self, message: Message, source: Beside) -> None:
        """Answer a sidecar's word. Raises Invalid LM3002 for one that is not spoken here."""
        match message["type"]:
            case "attest":
                await self._attest(message, source)
            case "records":
                await self._take_records(message, source)
            case other:
                raise Invalid("LM3002", reason=f"`{other}` is not spoken here")

    async def _attest(self, message: Message, sidecar: Beside) -> None:
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
        sidecar.tell(
            {
                "type": "attested",
                "conn": message.get("conn"),
                "ok": answer.is_ok,
                "code": answer.code,
                "facts": dict(answer.facts),
            }
        )

    async def _take_records(self, message: Message, sidecar: Beside) -> None:
        """Take records over, in the order in which they came; while the disk refuses, they wait here and there."""
        rows = message.get("records")
        assert isinstance(rows, list)
        async with sidecar.records:
            failures = 0
            while True:
                try:
                    await self._feed.records(rows)
                except Unavailable as problem:
                    if failures == 0:
                        self._log.error("records wait in a sidecar", code=problem.code, reason=str(problem))
                    failures += 1
                    if sidecar.has_ended:
                        # it sends them again to whoever comes after, if it lives
                        return
                    await asyncio.sleep(RECORDS_AGAIN_S)
                else:
                    break
        # only now: they are on the disk
        sidecar.tell({"type": "ack", "sequence": message.get("sequence")})

    async def record(self, kind: str, **fields: object) -> None:
        """Record something that happened to it here; a disk that refuses does not end it."""
        if self._feed.emit is None:
            return
        try:
            await self._feed.emit(kind, workload=self.name, **fields)
        except Unavailable as problem:
            self._log.error("an event was not recorded", kind=kind, code=problem.code, reason=str(problem))

    async def wait_ready(self) -> None:
        """Wait until every sidecar listens.

        Raises Unavailable when one does not, with its reason.
        """
        for found in list(self._places):
            await self._wait_one(found)

    async def _wait_one(self, found: Beside) -> None:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await found.ready.wait()
        except TimeoutError as err:
            raise Unavailable("LM3461", workload=self.name) from err
        if found.failed is not None:
            raise found.failed

    def tell(self, message: Mapping[str, object]) -> None:
        """Tell every sidecar something; one that is starting is told everything anyway."""
        for found in self._all:
            found.tell(message)

    async def stop(self) -> None:
        """End the program with all of its session, and the sidecars.

        1. Sidecars take nothing new, and answers under way reach their callers while the program still runs.
        2. The program was not reaped yet, unless whoever began it is gone: its number is the session's.
        """
        # (1)
        if self._program is not None and not _has_ended(self._program):
            await self.quieten()
        self._is_stopping = True
        # (2)
        if self._program is not None:
            assert self.launch is not None
            await session.end(self.launch.session, STOP_WITHIN_S)
        # whoever launched it and the agent may end it at once: one of them closes the handle
        handle, self._program = self._program, None
        if handle is not None:
            os.close(handle)
        self.tell({"type": "stop"})
        for found in self._places:
            found.ready.set()

    async def quieten(self) -> None:
        """Take no new callers, and wait until those that are here have their answers, ten seconds at most."""
        self._is_stopping = True
        told = [found for found in self._all if found.is_told]
        self.tell({"type": "quiet"})
        for doors in self._doors.values():
            doors.close_inbound()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_WITHIN_S), asyncio.TaskGroup() as tasks:
                for found in told:
                    tasks.create_task(_either(found.quiet, found.over))


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    """Wait for one of two events."""
    waiting = [asyncio.ensure_future(found.wait()) for found in (first, second)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for found in waiting:
            found.cancel()


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _address(value: object) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2 or type(value[1]) is not int:
        raise Invalid("LM3002", reason="an address is a host and a port")
    return str(value[0]), value[1]
