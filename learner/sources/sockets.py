"""Reads a listing of a host's sockets, as `ss -tuan` or /proc/net/tcp{,6} give it: connections that began long ago.

Long-lived connections show no SYN to whoever begins to watch. In a listing, a local port that is listened on is the
callee's; one that is not, while others are, is the caller's. A listing without any listener tells no direction. It
has no times: the file's own is taken.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Outcome
from mesh.flow import Flow
from mesh.problems import Diagnostic

MAX_REMEMBERED = 500_000
Socket = tuple[str, int]
Listener = tuple[str, str | None, int]
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LINE = re.compile(r"(?:(tcp|udp)\s+)?([A-Z][A-Z0-9-]+)\s+\d+\s+\d+\s+(\S+):(\d+|\*)\s+(\S+):(\d+|\*)(?:\s|\Z)")
_PROC = re.compile(
    r"\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{2}) "
)
_HEADERS = ("State", "Netid", "sl")
# include/net/tcp_states.h
_STATES = (
    "",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "CLOSE",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
)
_SYN_RECV, _CLOSE, _NEW_SYN_RECV = 3, 7, 12
_LISTENING = frozenset({"LISTEN", "UNCONN"})
_UNFINISHED = frozenset({"SYN-SENT", "SYN-RECV"})


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One socket. An address is None for any of them."""

    protocol: str
    state: str
    local: tuple[str | None, int]
    peer: Socket | None


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The connections of a listing.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    # the listeners first: a listing has no order
    listening = listeners(_quietly(line) for _, line in source.lines())
    at = _EPOCH + dt.timedelta(microseconds=path.stat().st_mtime_ns // 1000)
    given: set[tuple[str, Socket, Socket]] = set()
    for number, line in source.lines():
        if not line.lstrip().startswith(tuple(word.encode() for word in _HEADERS)):
            yield from source.take(number, lambda line=line: [_outcome(read_entry(line), listening, given, at, ledger)])  # type: ignore[misc]  # mypy has no type for a lambda's default


def connections(entries: Sequence[Entry], at: dt.datetime, ledger: Ledger) -> list[Flow]:
    """The connections among the sockets of a host, as they were at a moment; the account says what they left out."""
    listening = listeners(entries)
    given: set[tuple[str, Socket, Socket]] = set()
    out: list[Flow] = []
    for entry in entries:
        ledger.seen += 1
        found = _outcome(entry, listening, given, at, ledger)
        if isinstance(found, str):
            ledger.skip(found)
        else:
            ledger.flows += 1
            out.append(found)
    return out


def listeners(entries: Iterable[Entry | None]) -> set[Listener]:
    """Who listens among some sockets: protocol, address (None for any), port."""
    found: set[Listener] = set()
    for entry in entries:
        if entry is not None and entry.state in _LISTENING and len(found) < MAX_REMEMBERED:
            found.add((entry.protocol, *entry.local))
    return found


def entry_of(protocol: str, state: int, local: Socket, peer: Socket) -> Entry:
    """A socket as the kernel lists it: addresses as text, the state as a number of include/net/tcp_states.h.

    Raises ValueError for a state or an address that is none.
    """
    ends = [
        (None if ipaddress.ip_address(ip).is_unspecified else fields.ip("address", ip), port)
        for ip, port in (local, peer)
    ]
    ip, port = ends[1]
    name = "UNCONN" if protocol == "udp" and state == _CLOSE else _state(state)
    return Entry(protocol, name, ends[0], None if ip is None else (ip, port))


def recognises(head: bytes) -> bool:
    """Whether the first line that is no header is a socket of such a listing."""
    lines = [line for line in head.split(b"\n")[:20] if line.strip()]
    if lines and lines[0].lstrip().startswith(tuple(word.encode() for word in _HEADERS)):
        lines = lines[1:]
    return bool(lines) and _quietly(lines[0]) is not None


def read_entry(line: bytes) -> Entry:
    """One line of `ss` or of /proc/net/tcp.

    Raises ValueError for anything else.
    """
    text = line.decode("utf-8").strip()
    if found := _LINE.match(text):
        peer = _address(found[5])
        port = found[6]
        return Entry(
            found[1] or "tcp",
            found[2],
            (_address(found[3]), 0 if found[4] == "*" else fields.port("local port", found[4])),
            None if peer is None or port == "*" else (peer, fields.port("peer port", port)),
        )
    if found := _PROC.match(text):
        name = _state(int(found[5], 16))
        local, peer = _packed(found[1]), _packed(found[3])
        port = int(found[4], 16)
        return Entry("tcp", name, (local, int(found[2], 16)), None if peer is None else (peer, port))
    raise ValueError("it is no socket as `ss` or /proc/net/tcp show one")


def _state(number: int) -> str:
    # one that the kernel keeps apart is SYN-RECV to whoever looks
    number = _SYN_RECV if number == _NEW_SYN_RECV else number
    if not 0 < number < len(_STATES):
        raise ValueError(f"no state of a socket: {number}")
    return _STATES[number]


def _quietly(line: bytes) -> Entry | None:
    try:
        return read_entry(line)
    except ValueError:
        return None


def _address(text: str) -> str | None:
    """An address as `ss` writes it; None for any."""
    bare = text.removeprefix("[").removesuffix("]").partition("%")[0]
    if bare == "*":
        return None
    found = fields.ip("address", bare)
    return None if ipaddress.ip_address(found).is_unspecified else found


def _packed(text: str) -> str | None:
    """An address as the kernel prints it: words of four bytes in the order of a little-endian machine."""
    words = [bytes.fromhex(text[index : index + 8])[::-1] for index in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return None if found.is_unspecified else fields.ip("address", str(found))


def _outcome(
    entry: Entry,
    listening: set[Listener],
    given: set[tuple[str, Socket, Socket]],
    at: dt.datetime,
    ledger: Ledger,
) -> Outcome:
    ip, port = entry.local
    if entry.state in _LISTENING:
        return "a socket that listens"
    if entry.peer is None or ip is None:
        return "without a peer"
    local, peer = (ip, port), entry.peer
    if entry.state == "SYN-SENT":
        caller, callee = local, peer
    elif _is_in(listening, entry.protocol, local):
        caller, callee = peer, local
    elif listening:
        caller, callee = local, peer
    else:
        ledger.mark_ambiguous(f"{ip}:{port} - {peer[0]}:{peer[1]} {entry.protocol}")
        return "of no known direction"
    key = (entry.protocol, caller, callee)
    if key in given:
        return "the other end of a connection of this host"
    if len(given) < MAX_REMEMBERED:
        given.add(key)
    return Flow(
        start=at,
        source_ip=caller[0],
        source_port=caller[1],
        destination_ip=callee[0],
        destination_port=callee[1],
        protocol="tcp" if entry.protocol == "tcp" else "udp",
        established=entry.state not in _UNFINISHED,
        sensor="sockets",
    )


def _is_in(listening: set[Listener], protocol: str, local: Socket) -> bool:
    return (protocol, local[0], local[1]) in listening or (protocol, None, local[1]) in listening
