"""Before the node API: strangers' connections are counted by their address before a handshake costs anything.

gRPC listens by itself and counts nobody. So a connection is accepted here, where the address has its places
(`limen.listener`), and spliced to the private socket at which gRPC serves, from a socket with a name of its own: by
that name a call finds its connection again. Whoever proves to be a node in time gives the address's place back, since a
hundred hosts may stand behind one address, and from then on counts by the node's name. This module reads no byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import urllib.parse
from collections import Counter
from collections.abc import Coroutine

import structlog

from enforcer.pump import CHUNK_BYTES, pump
from limen.listener import Counted, CountingListener
from mesh.settings import check_socket_path

# a handshake and the first call; gRPC gives the handshake alone ten
PROVES_WITHIN_S = 20.0
# an agent holds one, two while it goes over to a new SVID; a server below one more for each certificate it asks for
MOST_OF_NODE = 16
# a refusal is on its way: the answer first, then the end
_HANGS_UP_AFTER_S = 1.0
# how long to wait when there are no descriptors for another connection
_AGAIN_S = 1.0


class _Line:
    """One connection: who holds it is not known at first, and it ends unless that changes in time."""

    def __init__(self, found: Counted, writer: asyncio.StreamWriter, within_s: float) -> None:
        self.found, self.node = found, ""
        self._writer = writer
        self._end = asyncio.get_running_loop().call_later(within_s, self.hang_up)

    def proved(self, node: str) -> None:
        self._end.cancel()
        self.node = node
        self.found.give_back()

    def end_in(self, seconds: float) -> None:
        self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(seconds, self.hang_up)

    def hang_up(self) -> None:
        self._end.cancel()
        self._writer.transport.abort()


class NodeFront:
    """Accepts at the public port, and splices to a private socket under names that stand for connections."""

    def __init__(self, private: pathlib.Path, *, within_s: float = PROVES_WITHIN_S) -> None:
        self._private, self._within_s = private, within_s
        self._lines: dict[str, _Line] = {}
        self._of_node: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def prepare(self) -> str:
        """Make room for the private socket; return its address for gRPC, a URI.

        Raises Invalid LM5001 for a path that is too long.
        """
        check_socket_path(self._private)
        self._private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._private.unlink(missing_ok=True)
        return f"unix:{urllib.parse.quote(str(self._private))}"

    def start(self, listener: CountingListener) -> None:
        """Take connections from now on."""
        listener.setblocking(False)
        self._keep(self._accept(listener))

    async def close(self) -> None:
        """Take no more connections, and end those that there are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._private.unlink(missing_ok=True)

    def proved(self, peer: str, node: str) -> bool:
        """The connection that gRPC calls ``peer`` is a node's; False, and hung up on, when that node has too many."""
        line = self._lines.get(_name_of(peer))
        if line is None or line.node == node:
            # gone meanwhile, or known
            return True
        if self._of_node[node] >= MOST_OF_NODE:
            line.end_in(_HANGS_UP_AFTER_S)
            return False
        self._forget(line)
        self._of_node[node] += 1
        line.proved(node)
        return True

    def refused(self, peer: str) -> None:
        """The connection that gRPC calls ``peer`` is nobody's that may call: it ends as soon as that was said."""
        line = self._lines.get(_name_of(peer))
        if line is not None:
            line.end_in(_HANGS_UP_AFTER_S)

    def _forget(self, line: _Line) -> None:
        if line.node:
            self._of_node[line.node] -= 1
            if not self._of_node[line.node]:
                del self._of_node[line.node]

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: CountingListener) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    found, _ = await loop.sock_accept(listener)
                except ConnectionAbortedError:
                    # beyond the limits, and closed; a flood of them does not keep others from their turn
                    await asyncio.sleep(0)
                    continue
                except OSError as err:
                    self._log.warning("no connection of an agent can be accepted", reason=err.strerror)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                assert isinstance(found, Counted)
                self._keep(self._serve(found))

    async def _serve(self, found: Counted) -> None:
        """Splice one connection, until one of both sides ends it."""
        with found, contextlib.suppress(OSError):
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with inner:
                # the kernel gives a name that nobody else has
                inner.bind("")
                inner.setblocking(False)
                await asyncio.get_running_loop().sock_connect(inner, str(self._private))
                name = inner.getsockname().decode("ascii").removeprefix("\0")
                back_reader, back_writer = await asyncio.open_unix_connection(sock=inner.dup(), limit=CHUNK_BYTES)
                reader, writer = await asyncio.open_connection(sock=found, limit=CHUNK_BYTES)
                line = self._lines[name] = _Line(found, writer, self._within_s)
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(pump(reader, back_writer))
                        tasks.create_task(pump(back_reader, writer))
                finally:
                    line.hang_up()
                    back_writer.transport.abort()
                    self._lines.pop(name, None)
                    self._forget(line)


def _name_of(peer: str) -> str:
    return peer.removeprefix("unix-abstract:")
