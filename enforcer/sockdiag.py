"""Asks the kernel for one socket (NETLINK_SOCK_DIAG, sock_diag(7)): TCP by its four coordinates, Unix by its inode.

An exact look-up, no dump: some microseconds, and no privilege in one's own network namespace.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
import struct
import threading

from mesh.problems import NotFound, Unavailable

_NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_INET_DIAG_CGROUP_ID = 21
# struct inet_diag_msg: after state, ports, addresses and interface
_COOKIE_AT = 44
_UNIX_SHOW_PEER = 0x4
_UNIX_DIAG_PEER = 2
HEADER = struct.Struct("=IHHII")
_TIMEOUT_S = 1.0
Address = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """A socket as its own side sees it. ``cgroup`` is the id of the cgroup it was made in, None when not told.

    ``cookie`` is the kernel's own number of it, which no other socket ever has.
    """

    uid: int
    inode: int
    cookie: int
    cgroup: int | None


class SockDiag:
    """One netlink socket to the kernel's socket tables."""

    def __init__(self) -> None:
        self._netlink = open_netlink(_TIMEOUT_S)
        self._sequence = 0
        # one question at a time: answers carry nothing but our own number
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def find(self, source: Address, destination: Address) -> Socket:
        """Find the TCP socket whose own end is ``source`` and whose peer is ``destination``.

        Raises NotFound LM3410 when there is none, Unavailable LM3411 when the kernel does not answer.
        """
        family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
        ends = b"".join(socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (source, destination))
        ports = struct.pack("!HH", source[1], destination[1])
        identity = ports + ends + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
        body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, ANY_STATE) + identity
        message = _body(self._ask(body), _text(source), _text(destination))
        if len(message) < 72:
            raise Unavailable("LM3411", reason="a short answer")
        cookie = int(struct.unpack_from("=Q", message, _COOKIE_AT)[0])
        uid, inode = struct.unpack_from("=II", message, 64)
        cgroup = _attribute(message, 72, _INET_DIAG_CGROUP_ID, "=Q")
        return Socket(uid=uid, inode=inode, cookie=cookie, cgroup=cgroup)

    def find_peer(self, inode: int) -> int:
        """The inode of the other end of a connected Unix socket that has ``inode`` (unix_diag.h).

        Raises NotFound LM3410 when one of both ends is gone, Unavailable LM3411 when the kernel does not answer.
        """
        body = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, ANY_STATE, inode, _UNIX_SHOW_PEER, _NO_COOKIE, _NO_COOKIE)
        message = _body(self._ask(body), f"unix:{inode}", "its peer")
        peer = _attribute(message, 16, _UNIX_DIAG_PEER, "=I")
        if peer is None:
            raise NotFound("LM3410", source=f"unix:{inode}", destination="its peer")
        return peer

    def _ask(self, body: bytes) -> bytes:
        with self._lock:
            self._sequence += 1
            header = HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0)
            try:
                self._netlink.send(header + body)
                return self._receive()
            except OSError as err:
                raise Unavailable("LM3411", reason=err.strerror or str(err)) from err

    def _receive(self) -> bytes:
        """The answer to the last question; answers to earlier ones that timed out are dropped."""
        while True:
            answer = self._netlink.recv(65536)
            if len(answer) >= HEADER.size and HEADER.unpack_from(answer)[3] == self._sequence:
                return answer


def open_netlink(timeout_s: float) -> socket.socket:
    """A socket to the kernel's socket tables, of whoever closes it."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    netlink.bind((0, 0))
    netlink.settimeout(timeout_s)
    return netlink


def _body(answer: bytes, source: str, destination: str) -> bytes:
    """What follows the header; an error of the kernel's raises."""
    _, kind, _, _, _ = HEADER.unpack_from(answer)
    message = answer[HEADER.size :]
    if kind != NLMSG_ERROR:
        return message
    number = -struct.unpack_from("=i", message)[0]
    if number == errno.ENOENT:
        raise NotFound("LM3410", source=source, destination=destination)
    raise Unavailable("LM3411", reason=errno.errorcode.get(number, str(number)))


def _attribute(message: bytes, offset: int, wanted: int, form: str) -> int | None:
    """The value of a netlink attribute, None when it is not there."""
    needed = 4 + struct.calcsize(form)
    while offset + 4 <= len(message):
        size, name = struct.unpack_from("=HH", message, offset)
        if size < 4:
            return None
        if name == wanted and size >= needed and offset + needed <= len(message):
            return int(struct.unpack_from(form, message, offset + 4)[0])
        offset += (size + 3) & ~3
    return None


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
