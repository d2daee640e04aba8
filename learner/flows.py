"""The flow table: packets to conversations, initiator first, with who began from evidence and not from habit.

One row per conversation of two sockets and a protocol. A SYN without ACK names the initiator, a SYN with ACK the
responder; without either the first sender is taken and the row is marked ambiguous. A SYN with another sequence
number than the one its side began with is another conversation on the same sockets. Bytes are counted on the wire.
Packets come one by one, or many at once as the groups of `learner.columns`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import operator
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from learner.columns import ANSWER_FROM, DATA, SPOKE, SYN_FROM, Groups
from learner.packets import ACK, KNOWN_LINKS, RST, SYN, TCP, Frame, Packet, address, parse
from mesh.clock import format_time

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Key = tuple[int, int, int]
_IPV6 = 1 << 144
_OTHER = -1
_BOTH_SPOKE, _ANY_SYN, _ANY_ANSWER = SPOKE[0] | SPOKE[1], SYN_FROM[0] | SYN_FROM[1], ANSWER_FROM[0] | ANSWER_FROM[1]


@dataclasses.dataclass(slots=True)
class Conversation:
    """What two sockets said to each other. Sockets are numbers: an address and sixteen bits of port.

    A side is 0 for the lower socket, 1 for the higher; ``began`` has the sequence number of each side's SYN, -1 for
    a side that began with something else, None for one that was not heard of.
    """

    low: int
    high: int
    protocol: int
    first_at: int
    first_side: int
    packets: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    bits: int = 0
    syn_side: int | None = None
    answer_side: int | None = None
    began_low: int | None = None
    began_high: int | None = None


class Row(NamedTuple):
    """One row of the flow table, initiator first; times in nanoseconds since 1970."""

    source_ip: str
    source_port: int
    destination_ip: str
    destination_port: int
    protocol: str
    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    established: bool
    is_ambiguous: bool

    @property
    def first(self) -> dt.datetime:
        """When its first packet was captured, to the microsecond."""
        return _time(self.first_ns)

    @property
    def last(self) -> dt.datetime:
        """When its last packet was captured, to the microsecond."""
        return _time(self.last_ns)

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "source_ip": self.source_ip,
            "source_port": self.source_port,
            "destination_ip": self.destination_ip,
            "destination_port": self.destination_port,
            "protocol": self.protocol,
            "packets": self.packets,
            "bytes": self.bytes,
            "first": format_time(self.first),
            "last": format_time(self.last),
            "established": self.established,
        }


class Table:
    """The conversations so far. Memory grows with their number, not with the packets'."""

    def __init__(self) -> None:
        self._open: dict[Key, Conversation] = {}
        self._ended: list[Conversation] = []

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def add(self, packet: Packet, at: int) -> None:
        """Count a packet, the ``at``-th of its capture."""
        key = key_of(packet)
        side = int(_socket(packet.source, packet.source_port) != key[0])
        found = self._open.get(key)
        is_tcp = packet.protocol == TCP
        is_syn = is_tcp and packet.flags & (SYN | ACK) == SYN
        if (
            found is not None
            and is_syn
            and (found.began_high if side else found.began_low) not in {None, packet.sequence}
        ):
            self._ended.append(found)
            found = None
        if found is None:
            found = self._open[key] = Conversation(*key, at, side, first_ns=packet.time_ns)
        began = packet.sequence if is_syn else _OTHER
        if side and found.began_high is None:
            found.began_high = began
        elif not side and found.began_low is None:
            found.began_low = began
        found.packets += 1
        found.bytes += packet.wire_bytes
        found.first_ns = min(found.first_ns, packet.time_ns)
        found.last_ns = max(found.last_ns, packet.time_ns)
        found.bits |= SPOKE[side]
        if at < found.first_at:
            found.first_at, found.first_side = at, side
        if is_tcp:
            _flags(found, packet.flags, side)

    def merge(self, groups: Groups, begin: int, apart: Collection[Key] = ()) -> list[int]:
        """Count a block's groups, whose first record is the ``begin``-th of the capture.

        Those of the conversations ``apart`` are not counted; their indexes are given back.
        """
        table = self._open
        left: list[int] = []
        for index, (low, high, protocol, packets, size, first, last, at, side, bits, syn) in enumerate(
            zip(
                groups.low,
                groups.high,
                groups.protocol,
                groups.packets,
                groups.bytes,
                groups.first_ns,
                groups.last_ns,
                groups.first,
                groups.first_side,
                groups.bits,
                groups.syn_seq,
                strict=True,
            )
        ):
            key = (low, high, protocol)
            if apart and key in apart:
                left.append(index)
                continue
            began_low = None if not bits & 1 else syn if bits & SYN_FROM[0] else _OTHER
            began_high = None if not bits & 2 else syn if bits & SYN_FROM[1] else _OTHER
            found = table.get(key)
            if found is not None and syn >= 0 and (found.began_high if side else found.began_low) not in {None, syn}:
                self._ended.append(found)
                found = None
            syn_side = None if not bits & _ANY_SYN else 0 if bits & SYN_FROM[0] else 1
            answer_side = None if not bits & _ANY_ANSWER else 0 if bits & ANSWER_FROM[0] else 1
            if found is None:
                table[key] = Conversation(
                    low, high, protocol, begin + at, side, packets, size, first, last, bits, syn_side, answer_side,
                    began_low, began_high,
                )  # fmt: skip
                continue
            found.packets += packets
            found.bytes += size
            found.first_ns = min(found.first_ns, first)
            found.last_ns = max(found.last_ns, last)
            found.bits |= bits
            if found.began_low is None:
                found.began_low = began_low
            if found.began_high is None:
                found.began_high = began_high
            if found.syn_side is None:
                found.syn_side = syn_side
            if found.answer_side is None:
                found.answer_side = answer_side
        return left

    def rows(self) -> list[Row]:
        """All conversations, in the order in which they began."""
        found = [*self._ended, *self._open.values()]
        found.sort(key=operator.attrgetter("first_at"))
        return [_row(item) for item in found]


def build_table(frames: Iterable[Frame], skipped: Counter[str]) -> list[Row]:
    """Fold frames into conversations; what holds no TCP or UDP header is counted in ``skipped``."""
    table = Table()
    for at, frame in enumerate(frames):
        for packet in packets_of(frame, skipped):
            table.add(packet, at)
    return table.rows()


def packets_of(frame: Frame, skipped: Counter[str]) -> tuple[Packet, ...]:
    """The transport headers of a frame of any link type; scapy reads the unusual ones."""
    if frame.link in KNOWN_LINKS:
        return parse(frame, skipped)
    from learner.dissect import dissect  # noqa: PLC0415  scapy is loaded for unusual captures only

    found = dissect(frame, skipped)
    return () if found is None else (found,)


def key_of(packet: Packet) -> Key:
    """The conversation of a packet: the lower socket, the higher one, the protocol."""
    source, destination = (
        _socket(packet.source, packet.source_port),
        _socket(packet.destination, packet.destination_port),
    )
    return min(source, destination), max(source, destination), packet.protocol


def _flags(found: Conversation, flags: int, side: int) -> None:
    if flags & SYN and not flags & ACK:
        if found.syn_side is None:
            found.syn_side = side
    elif flags & SYN:
        if found.answer_side is None:
            found.answer_side = side
    elif flags & ACK and not flags & RST:
        found.bits |= DATA


def _socket(data: bytes, port: int) -> int:
    number = int.from_bytes(data, "big") << 16 | port
    return number | _IPV6 if len(data) == 16 else number


@functools.lru_cache(maxsize=65536)
def _address(number: int) -> str:
    """An address from a socket's number without its port."""
    return address(
        (number & ~(_IPV6 >> 16)).to_bytes(16, "big") if number >= _IPV6 >> 16 else number.to_bytes(4, "big")
    )


def _row(found: Conversation) -> Row:
    """Decide the direction and whether the conversation came about.

    1. The sender of a SYN began; so did whoever is not the sender of a SYN with ACK.
    2. Without either, the sender of the first packet is taken, and the row is ambiguous.
    3. TCP came about when the handshake was answered and not only by a reset; a conversation that was caught in the
       middle, when both sides spoke. UDP came about when both sides spoke.
    """
    # (1), (2)
    syn_side, answer_side = found.syn_side, found.answer_side
    side = found.first_side if answer_side is None else 1 - answer_side
    side = side if syn_side is None else syn_side
    initiator, responder = (found.high, found.low) if side else (found.low, found.high)
    is_tcp = found.protocol == TCP
    # (3)
    established = found.bits & _BOTH_SPOKE == _BOTH_SPOKE
    if is_tcp:
        is_new = syn_side is not None and answer_side is None
        established = answer_side is not None or (not is_new and established and bool(found.bits & DATA))
    return Row(
        _address(initiator >> 16),
        initiator & 0xFFFF,
        _address(responder >> 16),
        responder & 0xFFFF,
        "tcp" if is_tcp else "udp",
        found.packets,
        found.bytes,
        found.first_ns,
        found.last_ns,
        established,
        is_tcp and syn_side is None and answer_side is None,
    )


def _time(nanoseconds: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)
