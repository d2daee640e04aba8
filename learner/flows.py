"""The flow table: packets to conversations, initiator first, with who began from evidence and not from habit.

One row per conversation of two sockets and a protocol. A SYN without ACK names the initiator, a SYN with ACK the
responder; without either the first sender is taken and the row is marked ambiguous. Bytes are counted on the wire.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable

from learner.packets import ACK, KNOWN_LINKS, RST, SYN, TCP, Frame, Packet, address, parse
from mesh.clock import format_time

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Socket = tuple[bytes, int]


@dataclasses.dataclass(slots=True)
class Conversation:
    """What two sockets said to each other; ``a`` sent the first packet."""

    a: Socket
    b: Socket
    protocol: int
    packets: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    syn: Socket | None = None
    syn_ack: Socket | None = None
    both_spoke: bool = False
    data_after: bool = False
    reset: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the flow table, initiator first."""

    source_ip: str
    source_port: int
    destination_ip: str
    destination_port: int
    protocol: str
    packets: int
    bytes: int
    first: dt.datetime
    last: dt.datetime
    established: bool
    is_ambiguous: bool

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


def build_table(frames: Iterable[Frame], skipped: Counter[str]) -> list[Row]:
    """Fold frames into conversations; what holds no TCP or UDP header is counted in ``skipped``."""
    table: dict[tuple[Socket, Socket, int], Conversation] = {}
    for frame in frames:
        packet = parse(frame, skipped) if frame.link in KNOWN_LINKS else _dissect(frame, skipped)
        if packet is not None:
            _add(table, packet)
    return [_row(found) for found in table.values()]


def _dissect(frame: Frame, skipped: Counter[str]) -> Packet | None:
    from learner.dissect import dissect  # noqa: PLC0415  scapy is loaded for unusual captures only

    return dissect(frame, skipped)


def _add(table: dict[tuple[Socket, Socket, int], Conversation], packet: Packet) -> None:
    source, destination = (packet.source, packet.source_port), (packet.destination, packet.destination_port)
    key = (source, destination, packet.protocol) if source <= destination else (destination, source, packet.protocol)
    found = table.get(key)
    if found is None:
        found = table[key] = Conversation(source, destination, packet.protocol, first_ns=packet.time_ns)
    found.packets += 1
    found.bytes += packet.wire_bytes
    found.first_ns = min(found.first_ns, packet.time_ns)
    found.last_ns = max(found.last_ns, packet.time_ns)
    if source == found.b:
        found.both_spoke = True
    if packet.protocol == TCP:
        flags = packet.flags
        if flags & SYN and not flags & ACK:
            found.syn = found.syn or source
        elif flags & SYN:
            found.syn_ack = found.syn_ack or source
        elif flags & RST:
            found.reset = True
        elif flags & ACK:
            found.data_after = True


def _row(found: Conversation) -> Row:
    """Decide the direction and whether the conversation came about.

    1. The sender of a SYN began; so did whoever is not the sender of a SYN with ACK.
    2. Without either, the sender of the first packet is taken, and the row is ambiguous.
    3. TCP came about when the handshake was answered and not only by a reset; a conversation that was caught in the
       middle, when both sides spoke. UDP came about when both sides spoke.
    """
    # (1), (2)
    initiator = found.a
    if found.syn is not None:
        initiator = found.syn
    elif found.syn_ack is not None:
        initiator = found.a if found.syn_ack == found.b else found.b
    responder = found.b if initiator == found.a else found.a
    is_ambiguous = found.protocol == TCP and found.syn is None and found.syn_ack is None
    # (3)
    if found.protocol == TCP:
        is_new = found.syn is not None and found.syn_ack is None
        established = found.syn_ack is not None or (not is_new and found.both_spoke and found.data_after)
    else:
        established = found.both_spoke
    return Row(
        source_ip=address(initiator[0]),
        source_port=initiator[1],
        destination_ip=address(responder[0]),
        destination_port=responder[1],
        protocol="tcp" if found.protocol == TCP else "udp",
        packets=found.packets,
        bytes=found.bytes,
        first=_time(found.first_ns),
        last=_time(found.last_ns),
        established=established,
        is_ambiguous=is_ambiguous,
    )


def _time(nanoseconds: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)
