"""How a sidecar comes back to its agent's successor: through a socket at a known path, as the process that it is.

Who connects there is known by the kernel's word, pid and start time, so there is nothing to present. No event tells
that an agent will come back: it is asked for again and again, for as long as that is of use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Callable, Sequence

from enforcer.native import wire

AGAIN_S = 0.1
# as many as go over a socket at once (SCM_MAX_FD is 253)
MAX_HANDLES = 250


class Comeback:
    """The way back, and the program without which there is no reason to take it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._program = -1

    @property
    def has_program(self) -> bool:
        """Whether there is a program beside which the sidecar stands."""
        return self._program >= 0

    def watch(self, pid: int) -> None:
        """Watch the program; one that ended already is as good as none."""
        if self._program >= 0:
            os.close(self._program)
        self._program = -1
        with contextlib.suppress(OSError):
            self._program = os.pidfd_open(pid)

    def is_running(self) -> bool:
        """Whether the program still runs."""
        if self._program < 0:
            return False
        poll = select.poll()
        poll.register(self._program, select.POLLIN)
        return not poll.poll(0)

    async def find_agent(
        self, protocol: asyncio.Protocol, is_of_use: Callable[[], bool], handles: Callable[[], Sequence[int]]
    ) -> bool:
        """Connect to the next agent; False when the program ended first, or when it is of no use any more.

        The first message brings it the sockets that are listened on: from now on it holds them too.
        """
        while self.is_running() and is_of_use():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                # on this host: it takes the connection at once or refuses it
                sock.connect(self._path)
                told = handles()[:MAX_HANDLES]
                socket.send_fds(sock, [wire.encode({"type": "handles", "count": len(told)})], list(told))
                await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=sock)
            except OSError:
                sock.close()
                await asyncio.sleep(AGAIN_S)
            else:
                return True
        return False
