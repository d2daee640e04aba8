"""All workloads of an agent: begun at somebody's word, kept on the disk, taken over from a predecessor, ended in order.

A workload stays as long as whoever asked for it (`limen run`, whose child the program is). When an agent is killed,
programs and sidecars go on; whoever asked comes back to the next agent, which knows the workload from its predecessor's
record, and so does the sidecar. What nobody comes back for ended with whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, ValuesView

import structlog

from enforcer import guard, redirect
from enforcer.attest import check_member
from enforcer.beside import Beside
from enforcer.control import Conversation
from enforcer.inprocess import InProcess, refuse
from enforcer.kept import Kept, KeptSidecar, KeptWorkloads
from enforcer.launch import hash_opened, record
from enforcer.native import wire
from enforcer.orders import check_environment, read_begun, read_order
from enforcer.ports import Ports
from enforcer.process import read_stat
from enforcer.sight import Sight
from enforcer.workload import Feed, Workload
from enforcer.workloadfront import read_caller
from mesh.peercred import peer_credentials
from mesh.problems import Forbidden, NotFound, Problem, Unavailable, first_problem
from mesh.settings import check_socket_path

# how long a predecessor's workload waits for whoever asked for it
RESUMED_WITHIN_S = 30.0
# what a record says of a program beside its pid
_TOLD = frozenset({"unix:path", "unix:uid", "unix:sha256", "launch:path", "launch:sha256", "launch:script_sha256"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the agent does for its workloads: asks for SVIDs, guards application ports, says that something changed.

    ``unguarded`` says why no rules can be written, and is empty while they can.
    """

    reissue: Callable[[Sequence[Workload]], Awaitable[None]]
    write_guard: Callable[[], None]
    ended: Callable[[], Awaitable[None]]
    unguarded: Callable[[], str] = lambda: ""
    # what this agent's control groups are called, up to their workload's number
    prefix: str = "limen"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What rules are written about one workload, of this agent or of its predecessor."""

    ports: Ports
    sidecar_uid: int | None
    group: str
    redirect_port: int


class Workloads:
    """The workloads that run, by number."""

    def __init__(self, kept: KeptWorkloads, feed: Callable[[], Feed], sight: Sight, house: House) -> None:
        self._kept, self._feed, self._sight, self._house = kept, feed, sight, house
        self._running: dict[int, Workload] = {}
        self._predecessors = {(found.launch.pid, found.launch.start): found for found in self._left(kept)}
        # sidecars that came back before their workloads were resumed
        self._returned: dict[tuple[int, int], socket.socket] = {}
        # numbers, and with them the sidecars' users, are not given twice
        self._last = max((found.number for found in self._predecessors.values()), default=0)
        self._change = asyncio.Condition()
        self._past_handshakes = 0
        self._log = structlog.get_logger()

    @staticmethod
    def _left(kept: KeptWorkloads) -> list[Kept]:
        """A predecessor's workloads whose program still is there; of the others nothing is left to come back."""
        found = []
        for row in kept.load():
            try:
                stat = read_stat(row.launch.pid)
                is_there = stat.start == row.launch.start and not stat.has_ended
            except NotFound:
                is_there = False
            if is_there:
                found.append(row)
            else:
                kept.forget(row.number)
                redirect.release(row.group)
        return found

    def values(self) -> ValuesView[Workload]:
        """The workloads."""
        return self._running.values()

    def standing(self) -> list[Standing]:
        """All of whom rules are written: those that run, and a predecessor's that may still come back."""
        all_of_them: list[Workload | Kept] = [*self._running.values(), *self._predecessors.values()]
        return [
            Standing(
                ports=found.ports,
                sidecar_uid=found.sidecar_uid,
                group=found.group if redirect.is_there(found.group) else "",
                redirect_port=found.redirect_port,
            )
            for found in all_of_them
        ]

    @property
    def awaited(self) -> int:
        """How many workloads of a predecessor were not resumed yet: their sidecars serve, and say nothing."""
        return len(self._predecessors)

    def open_connections(self) -> Iterator[tuple[str, str, int]]:
        """Mutual TLS connections by workload and direction."""
        for workload in self._running.values():
            inbound, outbound = workload.open_connections
            yield workload.name, "inbound", inbound
            yield workload.name, "outbound", outbound

    @property
    def handshakes(self) -> int:
        """Mutual TLS handshakes of all sidecars, those that ended included."""
        return self._past_handshakes + sum(found.handshakes for found in self._running.values())

    async def stop(self) -> None:
        """End them all."""
        await asyncio.gather(*(found.stop() for found in self._running.values()))
        async with self._change:
            await self._change.wait_for(lambda: not self._running)

    async def launch(self, talk: Conversation, message: Mapping[str, object]) -> None:
        """Launch a workload and stay with it until it ends, or until whoever asked for it is gone.

        1. The order is read, and what it executes is hashed.
        2. The sidecar listens before the program runs.
        3. The asker begins the program and holds it; its environment is looked at, it is recorded, and let go. What it
           sends is redirected before it runs, or it does not run.
        4. The agent asks for its SVID; connections are held until it is there. Why there is none is told.
        """
        # (1)
        asked = read_order(talk, message)
        if asked.ports.intercept:
            self._check_redirect()
        executable = await asyncio.to_thread(hash_opened, asked.executable)
        script = await asyncio.to_thread(hash_opened, asked.script) if asked.script is not None else None
        self._last += 1
        number = self._last
        uid = guard.FIRST_UID + number % (guard.LAST_UID - guard.FIRST_UID) if os.geteuid() == 0 else None
        workload = self._made(asked.name, asked.ports, uid)

        async def begin() -> None:
            # (2)
            await workload.wait_ready()
            self._house.write_guard()
            # (3)
            await talk.send({"type": "begin"})
            before = len(talk.handles)
            handle, pid = read_begun(talk, await talk.receive(), "begun", before)
            check_environment(pid, asked.kept)
            if asked.kept:
                self._log.warning(
                    "launched with variables that load code", workload=asked.name, kept=sorted(asked.kept)
                )
            launched = await asyncio.to_thread(record, pid, talk.uid, executable, script)
            if asked.ports.intercept:
                workload.group = redirect.enclose(pid, f"{self._house.prefix}-{number}")
            workload.adopt(os.dup(handle), launched)
            if asked.ports.intercept:
                self._check_redirect()
            await talk.send({"type": "launched", "pid": launched.pid})
            # (4)
            with contextlib.suppress(Unavailable):
                await self._house.reissue([workload])
            if workload.refusal is not None:
                facts = {name: str(value) for name, value in workload.refusal.facts.items()}
                await talk.send({"type": "refused", "code": workload.refusal.code, "facts": facts})
            if asked.is_direct and workload.identity and not workload.identity.direct:
                raise Forbidden("LM3504", rule=workload.identity.rule)

        await self._stay(number, workload, begin, talk)

    async def resume(self, talk: Conversation, message: Mapping[str, object]) -> None:
        """Go on with a workload that a predecessor recorded, and stay with it as `launch` does.

        1. The process is the asker's child still, and of that pid and start time there is a record.
        2. It is what was recorded: held against the record as every connection is.
        3. Its sidecar comes back, or another one is started.
        4. Without a server the sidecar has the SVID of before; a new one is asked for when the server is back.

        Raises Invalid LM3002, NotFound LM3462 for a process that this agent cannot go on with.
        """
        # (1)
        handle, pid = read_begun(talk, message, "resume", 0)
        kept = self._predecessors.pop((pid, read_stat(pid).start), None)
        # (2)
        if kept is None or check_member(kept.launch, pid) is not None:
            raise NotFound("LM3462", pid=pid)
        # (3)
        workload = self._made(kept.name, kept.ports, kept.sidecar_uid)
        workload.group, workload.redirect_port = kept.group, kept.redirect_port
        workload.take_over(kept.sidecars, kept.spiffe_id)
        workload.adopt(os.dup(handle), kept.launch)
        for found in kept.sidecars:
            returned = self._returned.pop(found.process, None)
            if returned is not None:
                workload.take_back(found.process, returned)
        self._log.info("workload taken over", workload=kept.name, pid=pid)

        async def begin() -> None:
            # (4)
            with contextlib.suppress(Problem):
                await self._house.reissue([workload])

        await self._stay(kept.number, workload, begin, talk)

    def _made(self, name: str, ports: Ports, uid: int | None) -> Workload:
        if ports.sdk:
            return InProcess(name, ports, self._feed(), self._sight)
        return Workload(name, ports, self._feed(), self._sight, uid)

    async def _stay(
        self, number: int, workload: Workload, begin: Callable[[], Awaitable[None]], talk: Conversation
    ) -> None:
        """Keep a workload from its beginning to its end."""
        self._running[number] = workload
        workload.changed = lambda: self._keep(number, workload)
        try:
            with first_problem():
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(workload.run_sidecar())
                    try:
                        await begin()
                        await _tell(workload, "launched")
                        listening = tasks.create_task(_listen_to(talk, workload))
                        await workload.wait_program()
                        listening.cancel()
                        await _tell(workload, "ended")
                    finally:
                        await workload.stop()
        finally:
            del self._running[number]
            self._past_handshakes += workload.handshakes
            self._kept.forget(number)
            self._house.write_guard()
            redirect.release(workload.group)
            async with self._change:
                self._change.notify_all()
            await self._house.ended()
        await talk.send({"type": "ended"})

    def _keep(self, number: int, workload: Workload) -> None:
        if workload.launch is not None:
            self._kept.save(
                Kept(
                    number=number,
                    name=workload.name,
                    ports=workload.ports,
                    launch=workload.launch,
                    spiffe_id=workload.spiffe_id,
                    sidecars=tuple(
                        KeptSidecar(
                            process=found.process, place=found.place, is_draining=found.is_draining, build=found.build
                        )
                        for found in workload.sidecars
                        if found.process is not None
                    ),
                    sidecar_uid=workload.sidecar_uid,
                    group=workload.group,
                    redirect_port=workload.redirect_port,
                )
            )
        if workload.group:
            self._house.write_guard()

    def _check_redirect(self) -> None:
        """Refuse a workload that is to be redirected where that cannot be done. Raises Unavailable LM3703."""
        reason = self._house.unguarded() or redirect.left_out()
        if reason:
            raise Unavailable("LM3703", reason=reason)

    async def upgrade(self, name: object) -> wire.Message:
        """Put other sidecars in the place of those of all workloads, or of those of one name, one after the other.

        Raises NotFound LM3467 when there is no workload of that name; what fails is told, and the others go on.
        """
        found = [item for item in self._running.values() if name is None or item.name == name]
        if name is not None and not found:
            raise NotFound("LM3467", name=str(name))
        rows: list[dict[str, object]] = []
        for item in found:
            problem = ""
            try:
                await item.upgrade()
            except Unavailable as refused:
                problem = str(refused)
            rows.append({"name": item.name, "problem": problem, "sidecars": item.sidecar_rows()})
        return {"type": "upgraded", "workloads": rows}

    # -- what a predecessor left

    async def accept_sidecars(self, sock: socket.socket) -> None:
        """Give sidecars that come back to their workloads; anybody else is told to stop, and nothing more."""
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(sock)
            self._take_back(peer_credentials(connection).pid, connection)

    def _take_back(self, pid: int, connection: socket.socket) -> None:
        """A sidecar is the very process that was recorded: nothing else is told its workload's secrets."""
        process = None
        with contextlib.suppress(NotFound):
            process = (pid, read_stat(pid).start)
        running = next((found for found in self._running.values() if process in _processes(found.sidecars)), None)
        is_waiting = any(process in _processes(found.sidecars) for found in self._predecessors.values())
        if process is not None and running is not None:
            running.take_back(process, connection)
        elif process is not None and is_waiting and process not in self._returned:
            self._returned[process] = connection
        else:
            self._take_in(connection)

    def _take_in(self, connection: socket.socket) -> None:
        """A process that is no sidecar: one of a workload that enforces by itself, or nobody's.

        One that was not resumed yet is hung up on without a word: it asks again.
        """
        try:
            caller = read_caller(connection, self._sight.diag)
        except (OSError, Problem):
            connection.close()
            return
        for found in self._running.values():
            if isinstance(found, InProcess) and found.admits(caller):
                found.take_in(connection, caller)
                return
        os.close(caller.pidfd)
        if any(kept.ports.sdk and _is_of(kept, caller.pid) for kept in self._predecessors.values()):
            connection.close()
        else:
            refuse(connection, "LM3463")

    async def forget_predecessors(self) -> None:
        """After a while, forget the workloads that nobody came back for, and their rules; dismiss their sidecars."""
        await asyncio.sleep(RESUMED_WITHIN_S)
        for kept in self._predecessors.values():
            self._log.warning("nobody came back for a workload", workload=kept.name)
            self._kept.forget(kept.number)
        left, self._predecessors = self._predecessors, {}
        self._house.write_guard()
        for kept in left.values():
            redirect.release(kept.group)
        self.dismiss_returned()

    def dismiss_returned(self) -> None:
        """Tell the sidecars that came back, and whose workloads did not, to stop."""
        returned, self._returned = self._returned, {}
        for connection in returned.values():
            _dismiss(connection)


async def _tell(workload: Workload, event: str) -> None:
    """Record that a program began, or went on under this agent, or ended."""
    launch = workload.launch
    facts = {} if launch is None else {name: value for name, value in launch.facts if name in _TOLD}
    pid = None if launch is None else launch.pid
    await workload.record("workload", event=event, pid=pid, spiffe_id=workload.spiffe_id or None, facts=facts)


def _is_of(kept: Kept, pid: int) -> bool:
    try:
        return check_member(kept.launch, pid) is None
    except Problem:
        return False


def _processes(sidecars: Sequence[Beside | KeptSidecar]) -> set[tuple[int, int] | None]:
    return {found.process for found in sidecars}


def _dismiss(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.send(wire.encode({"type": "stop"}))
    connection.close()


async def _listen_to(talk: Conversation, workload: Workload) -> None:
    """End the workload when whoever launched it is gone, or says so: then its callers get their answers first."""
    message = await talk.receive()
    while message is not None:
        if message["type"] == "end":
            await workload.quieten()
            break
        message = await talk.receive()
    workload.signal_program(signal.SIGTERM)


def listen_for_sidecars(path: pathlib.Path) -> socket.socket:
    """Listen where sidecars come back. Every user may connect, since each sidecar has a user of its own.

    Raises Invalid LM5001 for a path that is too long.
    """
    check_socket_path(path)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    path.chmod(0o666)
    sock.listen(64)
    sock.setblocking(False)
    return sock
