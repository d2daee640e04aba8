"""Every TCP and UDP socket of this network namespace, as the kernel lists them (sock_diag(7), NLM_F_DUMP).

A snapshot for who begins to watch: connections that began long ago show no SYN any more. It needs no privilege, and
sees the sockets of one network namespace alone.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import struct
from collections.abc import Iterator

from enforcer.sockdiag import ANY_STATE, HEADER, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY, open_netlink
from mesh.problems import Unavailable

MAX_SOCKETS = 500_000
_NLMSG_DONE = 3
_NLM_F_REQUEST_DUMP, _NLM_F_DUMP_INTR = 0x301, 0x10
# struct inet_diag_msg (linux/inet_diag.h)
_MESSAGE_BYTES = 72
_ANSWER_BYTES = 1 << 20
_TIMEOUT_S = 10.0
_TRIES = 5
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
Address = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """One socket. ``state`` is the kernel's number (include/net/tcp_states.h): 1 connected, 7 not, 10 listening."""

    protocol: str
    state: int
    local: Address
    peer: Address


def dump_sockets() -> list[Listed]:
    """All TCP and UDP sockets of both families, at most `MAX_SOCKETS`.

    Raises Unavailable LM3411 when the kernel does not answer.
    """
    found: list[Listed] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for number, protocol in _PROTOCOLS.items():
                found += _dump(family, number, protocol)
    except OSError as err:
        raise Unavailable("LM3411", reason=err.strerror or str(err)) from err
    return found[:MAX_SOCKETS]


def _dump(family: int, number: int, protocol: str) -> list[Listed]:
    """One table of the kernel's; read again when it says that it changed meanwhile, a few times."""
    found: list[Listed] = []
    for _ in range(_TRIES):
        with open_netlink(_TIMEOUT_S) as netlink:
            body = struct.pack("=BBBBI", family, number, 0, 0, ANY_STATE) + bytes(48)
            netlink.send(HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + body)
            found, whole = _answers(netlink, protocol)
        if whole:
            break
    return found


def _answers(netlink: socket.socket, protocol: str) -> tuple[list[Listed], bool]:
    found: list[Listed] = []
    whole = True
    while len(found) < MAX_SOCKETS:
        messages = list(read_messages(netlink.recv(_ANSWER_BYTES)))
        if not messages:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        for kind, flags, body in messages:
            if kind == _NLMSG_DONE:
                return found, whole
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else errno.EPROTO
                raise OSError(number, os.strerror(number))
            whole = whole and not flags & _NLM_F_DUMP_INTR
            listed = read_socket(body, protocol) if kind == SOCK_DIAG_BY_FAMILY else None
            if listed is not None:
                found.append(listed)
    return found, True


def read_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages of one answer: kind, flags, body. One that claims more than there is ends the reading."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, _, _ = HEADER.unpack_from(data, at)
        if size < HEADER.size or at + size > len(data):
            return
        yield kind, flags, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def read_socket(body: bytes, protocol: str) -> Listed | None:
    """A socket of the table; None for a message that is too short or of another family."""
    if len(body) < _MESSAGE_BYTES or body[0] not in {socket.AF_INET, socket.AF_INET6}:
        return None
    width = 4 if body[0] == socket.AF_INET else 16
    ports = struct.unpack_from("!HH", body, 4)
    local, peer = (socket.inet_ntop(body[0], body[at : at + width]) for at in (8, 24))
    return Listed(protocol, body[1], (local, ports[0]), (peer, ports[1]))
