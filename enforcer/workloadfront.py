"""Who is behind a connection to `agent.sock`: the front that accepts, asks the kernel, and splices to a private socket.

grpcio hides who is behind a Unix socket, so the connection is accepted here, the kernel's word about the peer is
taken (SO_PEERCRED, SO_PEERPIDFD), and the bytes are spliced to a private grpcio socket from a socket bound to a name
of its own: by that name an RPC finds its caller again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import select
import socket
import time
import urllib.parse
from collections import Counter

import structlog

from enforcer.order import End, Order, end_of
from enforcer.process import read_stat
from enforcer.pump import CHUNK_BYTES, pump
from enforcer.sockdiag import SockDiag
from mesh.peercred import peer_credentials
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.settings import check_socket_path

_SO_PEERPIDFD = 77
MAX_CONNECTIONS_PER_USER = 256
MAX_CONNECTIONS_PER_PROCESS = 64
_BACKLOG = 512
# how often the host's execs are heard of at most
_HEAR_EVERY_S = 0.01
# how long to wait when there are no descriptors for another connection
_AGAIN_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The process that connected. ``pidfd`` cannot come to mean another process; ``start`` is in clock ticks.

    ``layout`` is what it was when the connection was accepted: every exec draws another (ADR 3). ``inode`` is that of
    its end of the connection, None when the kernel does not tell.
    """

    pid: int
    uid: int
    gid: int
    start: int
    layout: tuple[int, ...]
    pidfd: int
    inode: int | None

    @property
    def process(self) -> tuple[int, int]:
        """What no other process is called: the number and the start time."""
        return self.pid, self.start

    @property
    def is_alive(self) -> bool:
        """Whether the very process that connected still runs."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)


class Front:
    """Accepts at a public path, and splices to a private one under names that stand for callers."""

    def __init__(self, path: pathlib.Path, private: pathlib.Path, order: Order) -> None:
        check_socket_path(path)
        self._path, self._private, self._order = path, private, order
        self._diag = SockDiag()
        self._numbers = itertools.count()
        self._callers: dict[str, Caller] = {}
        self._connections: Counter[int | tuple[int, int]] = Counter()
        self._listener: socket.socket | None = None
        self._since = 0
        self._spliced: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def prepare(self) -> str:
        """Make room for the private socket; return its address for gRPC.

        A gRPC address is a URI: what a path may hold and a URI may not is escaped, here and in a peer's name.
        """
        check_socket_path(self._private / "c00000000")
        self._private.mkdir(mode=0o700, exist_ok=True)
        self._clear()
        return f"unix:{urllib.parse.quote(str(self._private / 'api'))}"

    async def start(self) -> None:
        """Listen; every user may connect. Nobody has connected yet at a path that is just being made."""
        self._path.unlink(missing_ok=True)
        self._since = time.monotonic_ns()
        self._order.read()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._path.chmod(0o777)
        self._listener.listen(_BACKLOG)
        self._listen()
        self._hear()

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._take_all)

    def close(self) -> None:
        """Take no new connections."""
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            if self._order.watch is not None:
                loop.remove_reader(self._order.watch)
                self._order.watch.close()
                self._order.watch = None
            self._listener.close()
            self._listener = None
            for task in self._spliced:
                task.cancel()
        self._diag.close()

    def remove(self) -> None:
        """Remove both sockets."""
        self._path.unlink(missing_ok=True)
        self._clear()

    def caller_of(self, peer: str) -> Caller | None:
        """The caller behind a peer as gRPC names it."""
        return self._callers.get(urllib.parse.unquote(peer.removeprefix("unix:")))

    @property
    def callers(self) -> int:
        """How many connections there are."""
        return len(self._callers)

    def _clear(self) -> None:
        for left in self._private.iterdir():
            left.unlink(missing_ok=True)

    def _hear(self) -> None:
        """Listen for the next exec; whoever connects after it was heard of began after it."""
        watch = self._order.watch
        if watch is None or self._listener is None:
            return
        loop = asyncio.get_running_loop()

        def heard() -> None:
            assert watch is not None
            loop.remove_reader(watch)
            self._take_all()
            loop.call_later(_HEAR_EVERY_S, self._hear)

        loop.add_reader(watch, heard)

    def _take_all(self) -> None:
        """Accept until nobody waits; who comes after that moment began after it."""
        while self._listener is not None:
            before = time.monotonic_ns()
            try:
                found, _ = self._listener.accept()
            except BlockingIOError:
                # heard of before it is forgotten: those who still hold a connection may be among them
                self._order.read()
                self._order.nobody_waits(before)
                self._since = before
                return
            except OSError as err:
                self._log.warning("no caller can be accepted", reason=err.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_AGAIN_S, self._listen)
                return
            self._take(found)

    def _take(self, found: socket.socket) -> None:
        """Take one connection.

        A process, and a user, who hold too many are hung up on: they take this process's descriptors.
        """
        try:
            caller = read_caller(found, self._diag)
        except (OSError, Problem):
            # gone before it could be looked at
            found.close()
            return
        of_user, of_process = self._connections[caller.uid], self._connections[caller.process]
        if of_user >= MAX_CONNECTIONS_PER_USER or of_process >= MAX_CONNECTIONS_PER_PROCESS:
            os.close(caller.pidfd)
            found.close()
            return
        self._connections.update((caller.uid, caller.process))
        task = asyncio.get_running_loop().create_task(
            self._serve(found, caller, is_doubtful=self._order.take(caller, self._since))
        )
        self._spliced.add(task)
        task.add_done_callback(self._spliced.discard)

    async def _serve(self, found: socket.socket, caller: Caller, *, is_doubtful: bool) -> None:
        """Serve one caller; one of whom nobody can say as what it began the connection has to begin it again."""
        try:
            with found, contextlib.suppress(OSError, Problem):
                if not is_doubtful or await asyncio.to_thread(end_of, caller) is End.OWN:
                    await self._splice(found, caller)
        finally:
            self._order.leave(caller)
            for holder in (caller.uid, caller.process):
                self._connections[holder] -= 1
                if not self._connections[holder]:
                    del self._connections[holder]
            os.close(caller.pidfd)

    async def _splice(self, found: socket.socket, caller: Caller) -> None:
        """Splice a connection to the private socket, under a name that stands for its caller."""
        name = str(self._private / f"c{next(self._numbers)}")
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.bind(name)
            inner.setblocking(False)
            await asyncio.get_running_loop().sock_connect(inner, str(self._private / "api"))
            self._callers[name] = caller
            reader, writer = await asyncio.open_unix_connection(sock=found.dup(), limit=CHUNK_BYTES)
            try:
                back_reader, back_writer = await asyncio.open_unix_connection(sock=inner, limit=CHUNK_BYTES)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(pump(reader, back_writer))
                    tasks.create_task(pump(back_reader, writer))
            finally:
                writer.close()
        finally:
            inner.close()
            self._callers.pop(name, None)
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108  one system call


def read_caller(sock: socket.socket, diag: SockDiag) -> Caller:
    """Who connected: SO_PEERPIDFD where the kernel has it, else pidfd_open with the start time read twice.

    A kernel that has it and gives none says that the process is gone: its number may be another's by now, so it is
    never looked up instead.

    Raises Forbidden or NotFound LM3401, OSError when the process is gone.
    """
    pid, uid, gid = peer_credentials(sock)
    try:
        pidfd, before = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), None
    except OSError as err:
        if err.errno != errno.ENOPROTOOPT:
            raise
        before = read_stat(pid).start
        pidfd = os.pidfd_open(pid)
    inode = None
    try:
        os.set_inheritable(pidfd, False)
        stat = read_stat(pid)
        if before not in {None, stat.start}:
            raise Forbidden("LM3401", pid=pid)
        # unix_diag is a module that a kernel may lack
        with contextlib.suppress(Unavailable):
            inode = diag.find_peer(os.fstat(sock.fileno()).st_ino)
    except (OSError, Problem):
        os.close(pidfd)
        raise
    return Caller(pid=pid, uid=uid, gid=gid, start=stat.start, layout=stat.layout, pidfd=pidfd, inode=inode)
