"""A block of a capture as columns: the headers of plain packets read many at once, and folded to conversations.

Plain is what a fast path can know without a doubt: Ethernet (with at most two VLAN tags), Linux cooked, raw or
loopback; IPv4 without options or fragments, or IPv6 without extension headers; TCP or UDP that is no tunnel, with
its whole header captured. Everything else is handed back by its place, for `learner.packets` to read one by one.

1. Packets are grouped by a hash of both sockets; EVERY packet of a group is compared with the group's first, so that a
   collision, found or made, sends the block to the slow path and never mixes two conversations.
2. Groups in which a SYN might begin another conversation on the same sockets are handed back packet by packet.

It keeps no state between blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np

from learner.packets import LINK_OFFSETS, TCP, TUNNEL_PORTS, UDP

Array: TypeAlias = Any  # of numpy, into which mypy does not look
SYN, RST, ACK = 0x02, 0x04, 0x10
# what a group's packets did, as bits: a side is the lower (0) or the higher (1) of the two sockets
SPOKE, SYN_FROM, ANSWER_FROM, DATA = (1, 2), (4, 8), (16, 32), 64
_IPV4, _IPV6, _VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8, 0x9100)
_MIX_A, _MIX_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@dataclasses.dataclass(frozen=True, slots=True)
class Records:
    """Where each record's packet begins and what its record says of it; lengths in bytes, times in nanoseconds."""

    data: Array
    begin: Array
    kept: Array
    wire: Array
    time_ns: Array
    link: Array | int


@dataclasses.dataclass(frozen=True, slots=True)
class Groups:
    """Conversations of one block: ``low`` and ``high`` are their sockets as numbers, ``first`` indexes of records."""

    low: list[int]
    high: list[int]
    protocol: list[int]
    packets: list[int]
    bytes: list[int]
    first_ns: list[int]
    last_ns: list[int]
    first: list[int]
    first_side: list[int]
    bits: list[int]
    syn_seq: list[int]
    ordered: Array
    begins: list[int]

    def members(self, index: int) -> list[int]:
        """The records of a group, in the order of the capture."""
        begin = self.begins[index]
        found: list[int] = sorted(self.ordered[begin : begin + self.packets[index]].tolist())
        return found


def fold(records: Records) -> tuple[list[Groups], Array]:
    """The conversations of plain packets, and the indexes of all other records."""
    size = len(records.begin)
    layer3, kind, plain = network(records)
    out: list[Groups] = []
    rest = np.ones(size, dtype=bool)
    for family, of in (_IPV4, _ipv4), (_IPV6, _ipv6):
        found = np.nonzero(plain & (kind == family))[0]
        if len(found):
            groups, taken = of(records, found, layer3[found] if isinstance(layer3, np.ndarray) else layer3)
            if groups is not None:
                out.append(groups)
                rest[taken] = False
    return out, np.nonzero(rest)[0]


def _field(data: Array, at: Array, offset: int, kind: str) -> Array:
    """A value of every packet, from an unaligned view of the block."""
    size = np.dtype(kind).itemsize
    view = np.ndarray((len(data) - size - offset + 1,), kind, data, offset, (1,))
    return view[at]


def network(records: Records) -> tuple[Array | int, Array, Array]:
    """Where the network layer begins, its EtherType, and of which packets that is known."""
    size = len(records.begin)
    if isinstance(records.link, np.ndarray):
        # captures of several kinds of interfaces at once are rare: the first kind is read fast
        link = int(records.link[0])
        plain = records.link == link
    else:
        link, plain = records.link, np.ones(size, dtype=bool)
    known = LINK_OFFSETS.get(link)
    if known is None:
        return 0, np.zeros(size, dtype=np.uint16), np.zeros(size, dtype=bool)
    offset, ether_at = known
    plain &= records.kept >= offset + 28
    begin = np.where(plain, records.begin, records.begin[0])
    if len(records.data) < int(begin.max()) + offset + 40:
        plain &= records.begin + offset + 40 <= len(records.data)
        begin = np.where(plain, records.begin, records.begin[0])
        if not plain.any():
            return 0, np.zeros(size, dtype=np.uint16), plain
    if ether_at is None:
        first = _field(records.data, begin, offset, "u1") >> 4
        return offset, np.where(first == 4, _IPV4, np.where(first == 6, _IPV6, 0)), plain
    kind = _field(records.data, begin, ether_at, ">u2").astype(np.uint16)
    if link != 1 or not np.isin(kind, _VLANS).any():
        return offset, kind, plain
    where = np.full(size, offset, dtype=np.int64)
    for _ in range(2):
        tagged = np.isin(kind, _VLANS) & plain
        where = np.where(tagged, where + 4, where)
        inside = records.kept >= where + 28
        plain &= inside & (records.begin + where + 40 <= len(records.data))
        at = np.where(plain, records.begin + where - 2, records.begin[0])
        kind = np.where(tagged & plain, _field(records.data, at, 0, ">u2"), kind)
    return where, kind, plain


_HEAD4 = np.dtype(
    {
        "names": [
            "version",
            "fragment",
            "protocol",
            "source",
            "destination",
            "sport",
            "dport",
            "seq",
            "offset",
            "flags",
        ],
        "formats": ["u1", ">u2", "u1", ">u4", ">u4", ">u2", ">u2", ">u4", "u1", "u1"],
        "offsets": [0, 6, 9, 12, 16, 20, 22, 24, 32, 33],
        "itemsize": 40,
    }
)
_HEAD6 = np.dtype(
    {
        "names": ["version", "protocol", "s1", "s2", "d1", "d2", "sport", "dport", "seq", "offset", "flags"],
        "formats": ["u1", "u1", ">u8", ">u8", ">u8", ">u8", ">u2", ">u2", ">u4", "u1", "u1"],
        "offsets": [0, 6, 8, 16, 24, 32, 40, 42, 44, 52, 53],
        "itemsize": 60,
    }
)


def _heads(
    records: Records, found: Array, layer3: Array | int, form: np.dtype, size: int
) -> tuple[Array, Array, Array]:
    """The headers of the packets that have them whole: their indexes, the headers, and how many bytes were kept."""
    at = records.begin[found] + layer3
    room = records.kept[found] - layer3
    inside = (room >= size + 8) & (at + form.itemsize <= len(records.data))
    found, at, room = found[inside], at[inside], room[inside]
    # as bytes without fields: numpy copies a structure field by field, and bytes at once
    opaque = np.dtype(f"V{form.itemsize}")
    view = np.ndarray((max(len(records.data) - form.itemsize + 1, 0),), opaque, records.data, 0, (1,))
    return found, view[at].view(form), room


def _is_whole(head: Array, room: Array, size: int) -> Array:
    """TCP or UDP whose header was captured whole and is possible, and no tunnel."""
    is_tcp, is_udp = head["protocol"] == TCP, head["protocol"] == UDP
    tcp = is_tcp & (room >= size + 20) & (head["offset"] >= 0x50)
    # a UDP header's length stands where the sequence number of TCP begins
    udp = is_udp & (head["seq"] >> 16 >= 8)
    for port in TUNNEL_PORTS:
        udp &= head["dport"] != port
    return tcp | udp


def _ipv4(records: Records, found: Array, layer3: Array | int) -> tuple[Groups | None, Array]:
    found, head, room = _heads(records, found, layer3, _HEAD4, 20)
    good = (head["version"] == 0x45) & (head["fragment"] & 0x3FFF == 0) & _is_whole(head, room, 20)
    if not good.all():
        found, head = found[good], head[good]
    source = head["source"].astype(np.uint64) << np.uint64(16) | head["sport"]
    destination = head["destination"].astype(np.uint64) << np.uint64(16) | head["dport"]
    swapped = source > destination
    low, high = np.minimum(source, destination), np.maximum(source, destination)
    return _group(records, found, head, swapped, (low, high))


def _ipv6(records: Records, found: Array, layer3: Array | int) -> tuple[Groups | None, Array]:
    found, head, room = _heads(records, found, layer3, _HEAD6, 40)
    good = (head["version"] >> 4 == 6) & _is_whole(head, room, 40)
    found, head = found[good], head[good]
    s1, s2, d1, d2 = (head[name].astype(np.uint64) for name in ("s1", "s2", "d1", "d2"))
    sport, dport = head["sport"].astype(np.uint64), head["dport"].astype(np.uint64)
    # the order of the sockets as numbers: address, then port
    swapped = (s1 > d1) | ((s1 == d1) & ((s2 > d2) | ((s2 == d2) & (sport > dport))))
    parts = []
    for mine, other in (s1, d1), (s2, d2), (sport, dport):
        parts += [np.where(swapped, other, mine), np.where(swapped, mine, other)]
    return _group(records, found, head, swapped, (parts[0], parts[2], parts[4], parts[1], parts[3], parts[5]))


def _group(
    records: Records, found: Array, head: Array, swapped: Array, parts: tuple[Array, ...]
) -> tuple[Groups | None, Array]:
    """Steps 1 and 2: the groups, and which records are in them."""
    if not len(found):
        return None, found
    protocol = head["protocol"]
    mixed = protocol.astype(np.uint64)
    for part in parts:
        mixed = (mixed ^ part) * _MIX_A
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed * _MIX_B)
    hashes = mixed[order]
    is_first = np.empty(len(order), dtype=bool)
    is_first[0] = True
    np.not_equal(hashes[1:], hashes[:-1], out=is_first[1:])
    starts = np.nonzero(is_first)[0]
    counts = np.diff(np.append(starts, len(order)))
    # (1) by comparing each with the one before it
    within = ~is_first[1:]
    for part in (*parts, protocol):
        ordered = part[order]
        if ((ordered[1:] != ordered[:-1]) & within).any():
            return None, found[:0]
    flags = np.where(protocol == TCP, head["flags"], 0).astype(np.uint8)
    bits = _bits(flags, swapped)[order]
    ors = np.bitwise_or.reduceat(bits, starts)
    first = np.minimum.reduceat(order, starts)
    irregular, syn_seq = _irregular(flags, head["seq"], order, starts, first, ors)
    time_ns = records.time_ns[found][order]
    wire = records.wire[found][order]
    keep = ~irregular
    picked = order[starts][keep]
    low, high = _sockets(parts, picked)
    groups = Groups(
        low=low,
        high=high,
        protocol=protocol[picked].tolist(),
        packets=counts[keep].tolist(),
        bytes=np.add.reduceat(wire, starts)[keep].tolist(),
        first_ns=np.minimum.reduceat(time_ns, starts)[keep].tolist(),
        last_ns=np.maximum.reduceat(time_ns, starts)[keep].tolist(),
        first=found[first[keep]].tolist(),
        first_side=swapped[first[keep]].astype(np.uint8).tolist(),
        bits=ors[keep].tolist(),
        syn_seq=syn_seq[keep].tolist(),
        ordered=found[order],
        begins=starts[keep].tolist(),
    )
    if not irregular.any():
        return groups, found
    return groups, found[order[np.repeat(keep, counts)]]


def _bits(flags: Array, swapped: Array) -> Array:
    side = swapped.astype(np.uint8)
    syn, answer = flags & (SYN | ACK) == SYN, flags & (SYN | ACK) == SYN | ACK
    data = flags & (SYN | RST | ACK) == ACK
    one = np.uint8(1) << side
    return one | np.where(syn, one << 2, 0) | np.where(answer, one << 4, 0) | np.where(data, DATA, 0).astype(np.uint8)


def _irregular(flags: Array, seq: Array, order: Array, starts: Array, first: Array, ors: Array) -> tuple[Array, Array]:
    """Step 2: a group with SYNs is plain if its first packet is one and all others are its repetitions.

    So it is if at most one side answered. The sequence number of the SYN is -1 without one.
    """
    both_answer = ors & (ANSWER_FROM[0] | ANSWER_FROM[1]) == ANSWER_FROM[0] | ANSWER_FROM[1]
    syn_seq = np.full(len(starts), -1, dtype=np.int64)
    where = np.nonzero((flags & (SYN | ACK) == SYN)[order])[0]
    if not len(where):
        return both_answer, syn_seq
    group = np.searchsorted(starts, where, side="right") - 1
    seqs = seq[order[where]].astype(np.int64)
    begins = np.nonzero(np.append(True, group[1:] != group[:-1]))[0]
    least, most, which = np.minimum.reduceat(seqs, begins), np.maximum.reduceat(seqs, begins), group[begins]
    both_syn = ors[which] & (SYN_FROM[0] | SYN_FROM[1]) == SYN_FROM[0] | SYN_FROM[1]
    first_is_syn = flags[first[which]] & (SYN | ACK) == SYN
    syn_seq[which] = most
    both_answer[which] |= (least != most) | both_syn | ~first_is_syn
    return both_answer, syn_seq


def _sockets(parts: tuple[Array, ...], picked: Array) -> tuple[list[int], list[int]]:
    """Sockets as numbers: the address, then sixteen bits of port; those of IPv6 have a bit above all addresses."""
    if len(parts) == 2:
        return parts[0][picked].tolist(), parts[1][picked].tolist()
    words = [part[picked].tolist() for part in parts]
    return (
        [1 << 144 | a << 80 | b << 16 | port for a, b, port in zip(*words[:3], strict=True)],
        [1 << 144 | a << 80 | b << 16 | port for a, b, port in zip(*words[3:], strict=True)],
    )
