"""Who is behind a connection to `agent.sock`: the front that accepts, asks the kernel, and splices to a private socket.

grpcio hides who is behind a Unix socket, so the connection is accepted here, the kernel's word about the peer is
taken (SO_PEERCRED, SO_PEERPIDFD), and the bytes are spliced to a private grpcio socket from a socket bound to a name
of its own: by that name an RPC finds its caller again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import pathlib
import select
import socket
import struct
import urllib.parse
from collections import Counter

from enforcer.process import read_stat
from mesh.problems import Forbidden, Problem
from mesh.settings import check_socket_path

_SO_PEERPIDFD = 77
_UCRED = struct.Struct("3i")
MAX_CONNECTIONS_PER_USER = 256
_CHUNK = 65536


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The process that connected. ``pidfd`` cannot come to mean another process; ``start`` is in clock ticks.

    ``layout`` is what it was when the connection was accepted: every exec draws another (ADR 3).
    """

    pid: int
    uid: int
    gid: int
    start: int
    layout: tuple[int, ...]
    pidfd: int

    @property
    def is_alive(self) -> bool:
        """Whether the very process that connected still runs."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)


class Front:
    """Accepts at a public path, and splices to a private one under names that stand for callers."""

    def __init__(self, path: pathlib.Path, private: pathlib.Path) -> None:
        check_socket_path(path)
        self._path, self._private = path, private
        self._numbers = itertools.count()
        self._callers: dict[str, Caller] = {}
        self._connections: Counter[int] = Counter()
        self._listener: asyncio.Server | None = None

    def prepare(self) -> str:
        """Make room for the private socket; return its address for gRPC.

        A gRPC address is a URI: what a path may hold and a URI may not is escaped, here and in a peer's name.
        """
        check_socket_path(self._private / "c00000000")
        self._private.mkdir(mode=0o700, exist_ok=True)
        self._clear()
        return f"unix:{urllib.parse.quote(str(self._private / 'api'))}"

    async def start(self) -> None:
        """Listen; every user may connect."""
        self._path.unlink(missing_ok=True)
        self._listener = await asyncio.start_unix_server(self._accept, str(self._path), limit=_CHUNK)
        self._path.chmod(0o777)

    def close(self) -> None:
        """Take no new connections."""
        if self._listener is not None:
            self._listener.close()

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

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Splice one connection to the private socket, under a name that stands for its caller.

        A user who holds too many connections is hung up on: they take this process's descriptors.
        """
        found: socket.socket = writer.get_extra_info("socket")
        try:
            caller = read_caller(found)
        except (OSError, Problem):
            # gone before it could be looked at
            writer.close()
            return
        if self._connections[caller.uid] >= MAX_CONNECTIONS_PER_USER:
            os.close(caller.pidfd)
            writer.close()
            return
        self._connections[caller.uid] += 1
        name = str(self._private / f"c{next(self._numbers)}")
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.bind(name)
            inner.setblocking(False)
            await asyncio.get_running_loop().sock_connect(inner, str(self._private / "api"))
            self._callers[name] = caller
            back_reader, back_writer = await asyncio.open_unix_connection(sock=inner)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, back_writer))
                tasks.create_task(_pump(back_reader, writer))
        except OSError:
            inner.close()
        finally:
            writer.close()
            self._connections[caller.uid] -= 1
            self._callers.pop(name, None)
            os.close(caller.pidfd)
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108  one system call


def read_caller(sock: socket.socket) -> Caller:
    """Who connected: SO_PEERPIDFD where the kernel has it, else pidfd_open with the start time read twice.

    Raises Forbidden or NotFound LM3401, OSError when the process is gone.
    """
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        pidfd, before = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), None
    except OSError:
        before = read_stat(pid).start
        pidfd = os.pidfd_open(pid)
    try:
        os.set_inheritable(pidfd, False)
        stat = read_stat(pid)
        if before not in {None, stat.start}:
            raise Forbidden("LM3401", pid=pid)
    except (OSError, Problem):
        os.close(pidfd)
        raise
    return Caller(pid=pid, uid=uid, gid=gid, start=stat.start, layout=stat.layout, pidfd=pidfd)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            writer.close()
