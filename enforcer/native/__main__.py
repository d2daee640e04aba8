"""`python -m enforcer.native FD SOCKET [UID]`: one sidecar, fed through the socket that the agent left open as FD.

Before it reads a byte the process makes itself small and closed: another user if it is told one, no core file, no
debugger of the same user, no new privileges. When its agent ends it comes back to the next one through SOCKET.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401  loaded on first use otherwise, which fails once the process is another user
import os
import signal
import socket
import sys

import uvloop

from enforcer.native.sentences import sentences
from enforcer.native.sidecar import Sidecar
from mesh.clock import SystemClock
from mesh.hardening import harden


def become(uid: int) -> None:
    """Run as a user of its own, with its group of the same number and no others."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


async def run(sock: socket.socket, back: str) -> None:
    """Serve until the agent says stop, or until there is nothing left to serve."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        sidecar = Sidecar(SystemClock(), tasks, back)
        await loop.create_connection(lambda: sidecar, sock=sock)
        loop.add_signal_handler(signal.SIGTERM, sidecar.retire)
        ticks = tasks.create_task(sidecar.run_ticks())
        await sidecar.over
        sidecar.close()
        ticks.cancel()


def main(arguments: list[str]) -> int:
    """Start from the command line."""
    if len(arguments) not in {2, 3} or not all(found.isdigit() for found in (arguments[0], *arguments[2:])):
        sys.stderr.write("LM3016 a sidecar is started by the agent, with the number of an open socket\n")
        return 2
    sentences()
    if len(arguments) == 3:
        become(int(arguments[2]))
    harden()  # after the change of user, which would undo half of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the agent's to answer
    sock = socket.socket(fileno=int(arguments[0]))
    sock.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sock, arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
