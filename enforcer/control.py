"""`control.sock`: how the command line talks to this host's agent. Frames as in `enforcer.native.wire`.

The socket's mode lets in nobody but the agent's own user and root; the peer's credentials say which of the two.
"""

from __future__ import annotations

import array
import asyncio
import os
import pathlib
import socket
from collections.abc import Mapping, Sequence

from enforcer.native import wire
from mesh.peercred import peer_credentials
from mesh.problems import Unavailable
from mesh.settings import check_socket_path

MAX_HANDLES = 3


def ask(path: pathlib.Path, message: Mapping[str, object], *, timeout_s: float | None = 15.0) -> wire.Message:
    """Send one message and return the answer.

    Raises Unavailable LM3450 when no agent answers.
    """
    with connect(path, timeout_s=timeout_s) as sock:
        try:
            wire.send(sock, message)
            answer = wire.receive(sock)
        except OSError as err:
            raise Unavailable("LM3450", socket=str(path), reason=str(err)) from err
    if answer is None:
        raise Unavailable("LM3450", socket=str(path), reason="it hung up")
    return answer


def connect(path: pathlib.Path, *, timeout_s: float | None = 15.0) -> socket.socket:
    """Connect to the agent.

    Raises Unavailable LM3450 when nobody listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(str(path))
    except OSError as err:
        sock.close()
        raise Unavailable("LM3450", socket=str(path), reason=err.strerror or str(err)) from err
    return sock


def send_with_handles(sock: socket.socket, message: Mapping[str, object], handles: Sequence[int]) -> None:
    """Send a message with open descriptors."""
    data = wire.encode(message)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
    sent = sock.sendmsg([data], ancillary)
    sock.sendall(data[sent:])


def listen(path: pathlib.Path) -> socket.socket:
    """Listen at a path that only this user can connect to.

    Raises Invalid LM5001 for a path that is too long.
    """
    check_socket_path(path)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    sock.listen(64)
    sock.setblocking(False)
    return sock


class Conversation:
    """One accepted connection: messages in, messages out, and the descriptors that came with them."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = wire.Decoder()
        self._waiting: list[wire.Message] = []
        self.handles: list[int] = []
        self.pid, self.uid, self.gid = peer_credentials(sock)

    async def receive(self) -> wire.Message | None:
        """The next message; None when the other side hung up.

        Raises Invalid when what comes is no message.
        """
        while not self._waiting:
            data = await self._read()
            if not data:
                return None
            self._waiting.extend(self._decoder.feed(data))
        return self._waiting.pop(0)

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock)
        try:
            data, handles, _, _ = socket.recv_fds(self._sock, 65536, MAX_HANDLES)
        except BlockingIOError:
            return await self._read()
        except OSError:
            return b""
        for handle in handles:
            os.set_inheritable(handle, False)
            if len(self.handles) < MAX_HANDLES:
                self.handles.append(handle)
            else:
                os.close(handle)
        return data

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a message; a side that hung up is no error."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, wire.encode(message))
        except OSError:
            return

    def close(self) -> None:
        """Close the connection and the descriptors that came."""
        for handle in self.handles:
            os.close(handle)
        self.handles = []
        self._sock.close()
