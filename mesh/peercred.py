"""Who is at the other end of a Unix socket: the kernel's word, as of when the connection was made (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("3i")


class PeerCredentials(NamedTuple):
    """The process that connected, or that listens, and whose it is."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Ask the kernel; of a connection that is no Unix socket's it says pid 0 and user -1."""
    return PeerCredentials._make(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
