"""Filters of packets and sampling of flows, as programs of classic BPF that the kernel runs before it keeps a packet.

The language is a small part of pcap-filter(7)'s, with its meaning for TCP and UDP. A primitive is `ip`, `ip6`, `tcp`,
`udp`, `control` (TCP with SYN, FIN or RST; ours), or `[tcp|udp] [src|dst] host ADDRESS | net CIDR | port N |
portrange N-M`; they are joined by `and`, `or`, `not` and parentheses. `and` beside `or` needs parentheses: pcap-filter
gives both the same precedence, and nobody expects that. Tags of VLANs are looked through (at most two); headers inside
tunnels are not looked at. Instructions: Documentation/networking/filter.rst of the kernel.

Pure: text to bytes.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import struct
from collections.abc import Iterator

from learner.packets import TCP, TUNNEL_PORTS, UDP
from mesh.problems import Invalid

MAX_PRIMITIVES = 64
MAX_TEXT = 4096
MAX_ONE_IN = 65536
# instructions: what they do with the accumulator A, the index X, the packet and the sixteen words of memory M
LD_W_ABS, LD_W_IND, LD_H_IND, LD_B_IND = 0x20, 0x40, 0x48, 0x50
LD_IMM, LD_MEM, LDX_MEM, ST = 0x00, 0x60, 0x61, 0x02
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
ADD_K, ADD_X, AND_K, LSH_K, RSH_K, MUL_K, MOD_K, XOR_K, XOR_X = 0x04, 0x0C, 0x54, 0x64, 0x74, 0x24, 0x94, 0xA4, 0xAC
TAX, TXA, RET = 0x07, 0x87, 0x06
# what the kernel tells beside the packet (SKF_AD_OFF)
AD_PROTOCOL, AD_PKTTYPE, AD_HATYPE = 0xFFFFF000, 0xFFFFF004, 0xFFFFF01C
HATYPE_LOOPBACK, OUTGOING = 772, 4
_IPV4, _IPV6, _VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8, 0x9100)
_FRAGMENT = 44
# words of M: the EtherType, where the network layer begins, a hash and a port while flows are sampled
_KIND, _NETWORK, _HASH, _PORTS = 0, 1, 2, 3
_MIX_A, _MIX_B = 0x9E3779B1, 0x85EBCA77
_TOKEN = re.compile(r"\s*(\(|\)|!|&&|\|\||[A-Za-z0-9.:/_-]+)")
_SYNONYMS = {"!": "not", "&&": "and", "||": "or"}
_PORT_KINDS = ("port", "portrange")


@dataclasses.dataclass(frozen=True, slots=True)
class Primitive:
    """One test. ``kind`` is ip, ip6, tcp, udp, control, net or port; ``side`` is src, dst or empty for either."""

    kind: str
    protocol: str = ""
    side: str = ""
    net: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    low: int = 0
    high: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    """What does not hold."""

    inner: Expression


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """All of the parts (`and`), or one of them (`or`)."""

    word: str
    parts: tuple[Expression, ...]


Expression = Primitive | Not | Joined


def compile_program(
    text: str, *, network_at: int, snaplen: int, one_in: int = 1, seed: int = 0, drops_outgoing: bool = True
) -> bytes:
    """The program of a filter and of a sampling, as an array of `struct sock_filter`.

    ``network_at`` is where the network layer begins in the packets of the socket, ``snaplen`` how many bytes of a
    packet are kept; ``one_in`` keeps one of so many flows, both directions of each, which ones depends on ``seed``.
    Raises Invalid LM4053 for what is no filter of the language.
    """
    program = _Program()
    program.begin(network_at, drops_outgoing=drops_outgoing)
    if one_in > 1:
        program.sample(one_in, seed)
    if text.strip():
        program.expression(parse(text), "keep", "drop")
    program.label("keep")
    program.put(RET, snaplen)
    program.label("drop")
    program.put(RET, 0)
    return program.pack()


def parse(text: str) -> Expression:
    """The tree of a filter.

    Raises Invalid LM4053.
    """
    if len(text) > MAX_TEXT:
        raise Invalid("LM4053", reason=f"it is longer than {MAX_TEXT} characters")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over words; the depth is bounded by the number of primitives and parentheses."""

    def __init__(self, text: str) -> None:
        self._words = list(_words(text))
        self._at = 0
        self._primitives = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._joined()
        if self._next() is not None:
            raise self._wrong(f"`{self._next()}` follows what is complete")
        return found

    def _next(self) -> str | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _take(self) -> str:
        found = self._next()
        if found is None:
            raise self._wrong("it breaks off")
        self._at += 1
        return found

    def _wrong(self, reason: str) -> Invalid:
        return Invalid("LM4053", reason=reason)

    def _joined(self) -> Expression:
        parts = [self._negated()]
        word = self._next()
        while self._next() in {"and", "or"}:
            if self._take() != word:
                raise self._wrong("`and` beside `or` needs parentheses")
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else Joined(str(word), tuple(parts))

    def _negated(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_PRIMITIVES:
            raise self._wrong("it is nested too deeply")
        try:
            if self._next() == "not":
                self._take()
                return Not(self._negated())
            if self._next() == "(":
                self._take()
                found = self._joined()
                if self._take() != ")":
                    raise self._wrong("a parenthesis is not closed")
                return found
            return self._primitive()
        finally:
            self._depth -= 1

    def _primitive(self) -> Primitive:
        self._primitives += 1
        if self._primitives > MAX_PRIMITIVES:
            raise self._wrong(f"it has more than {MAX_PRIMITIVES} primitives")
        word = self._take()
        protocol = side = ""
        if word in {"ip", "ip6", "control"}:
            return Primitive(word)
        if word in {"tcp", "udp"}:
            if self._next() not in {"src", "dst", *_PORT_KINDS}:
                return Primitive(word)
            protocol, word = word, self._take()
        if word in {"src", "dst"}:
            side, word = word, self._take()
        if word in _PORT_KINDS:
            return Primitive("port", protocol, side, None, *self._ports(self._take(), is_range=word == "portrange"))
        if word in {"host", "net"} and not protocol:
            return Primitive("net", "", side, self._network(self._take(), is_host=word == "host"))
        raise self._wrong(f"`{protocol} {word}` is none of its words".replace("` ", "`"))

    def _ports(self, text: str, *, is_range: bool) -> tuple[int, int]:
        found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})" if is_range else r"([0-9]{1,5})()", text)
        low = int(found[1]) if found else -1
        high = int(found[2] or low) if found else -1
        if not 0 <= low <= high <= 65535:
            raise self._wrong(f"`{text}` is no {'range of ports' if is_range else 'port'}")
        return low, high

    def _network(self, text: str, *, is_host: bool) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return ipaddress.ip_network(str(ipaddress.ip_address(text)) if is_host else text)
        except ValueError as err:
            raise self._wrong(f"`{text}` is no {'address' if is_host else 'network'}") from err


def _words(text: str) -> Iterator[str]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise Invalid("LM4053", reason=f"`{text[at : at + 20].strip()}` is none of its words")
        at = found.end()
        yield _SYNONYMS.get(found[1], found[1])


class _Program:
    """Instructions with labels. A jump over more than 255 instructions is a JA, whose distance is not bounded."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}
        self._made = 0

    def put(self, code: int, k: int = 0, yes: str = "", no: str = "") -> None:
        """One instruction; an empty label is the next instruction."""
        self._lines.append((code, k, yes, no))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._lines)

    def fresh(self) -> str:
        """A label that nobody has."""
        self._made += 1
        return f".{self._made}"

    def pack(self) -> bytes:
        """The program as the kernel takes it."""
        out = []
        for here, (code, k, yes, no) in enumerate(self._lines):
            if code == JA:
                out.append(struct.pack("=HBBI", code, 0, 0, self._labels[yes] - here - 1))
                continue
            over = [self._labels[name] - here - 1 if name else 0 for name in (yes, no)]
            assert all(0 <= item <= 255 for item in over)
            out.append(struct.pack("=HBBI", code, *over, k))
        return b"".join(out)

    def begin(self, network_at: int, *, drops_outgoing: bool) -> None:
        """The EtherType and the place of the network layer.

        1. What loopback sends is seen again when it comes in, and is counted then (as libpcap does).
        2. Tags that stand in the packet: what the kernel took out of it is not in the way.
        """
        # (1)
        if drops_outgoing:
            self.put(LD_W_ABS, AD_HATYPE)
            self.put(JEQ, HATYPE_LOOPBACK, "", "begin")
            self.put(LD_W_ABS, AD_PKTTYPE)
            self.put(JEQ, OUTGOING, "out", "begin")
            self.label("out")
            self.put(RET, 0)
            self.label("begin")
        # (2)
        self.put(LD_IMM, network_at)
        self.put(ST, _NETWORK)
        self.put(LD_W_ABS, AD_PROTOCOL)
        self.put(ST, _KIND)
        for _ in range(2):
            tagged, done = self.fresh(), self.fresh()
            for tag in _VLANS:
                self.put(JEQ, tag, tagged)
            self._go(done)
            self.label(tagged)
            self.put(LDX_MEM, _NETWORK)
            self.put(LD_H_IND, 2)
            self.put(ST, _KIND)
            self.put(TXA)
            self.put(ADD_K, 4)
            self.put(ST, _NETWORK)
            self.put(LD_MEM, _KIND)
            self.label(done)

    def sample(self, one_in: int, seed: int) -> None:
        """Keep a flow where a hash of both its ends, the same in both directions, is a multiple of ``one_in``.

        1. The addresses, each word of the one with the same of the other.
        2. The ports, but those of tunnels: their callers change with what is inside.
        3. All of it mixed with the seed, so that nobody outside knows which flows are kept.
        """
        four, six, mixed = self.fresh(), self.fresh(), self.fresh()
        self.put(LD_IMM, 0)
        self.put(ST, _PORTS)
        self._family(four, six, "drop")
        # (1), (2)
        self.label(four)
        self._xor(12, 16, 1)
        self._ports_to_x(mixed, (TCP, UDP))
        self._keep_ports(0, mixed)
        self.label(six)
        self._xor(8, 24, 4)
        plain, whole = self.fresh(), self.fresh()
        self.put(LD_B_IND, 6)
        for protocol in (TCP, UDP):
            self.put(JEQ, protocol, plain)
        self.put(JEQ, _FRAGMENT, "", whole)
        self.put(LD_H_IND, 42)
        self.put(JSET, 0xFFF8, whole)
        self._keep_ports(48, mixed)
        self.label(whole)
        self._go(mixed)
        self.label(plain)
        self._keep_ports(40, mixed)
        # (3)
        self.label(mixed)
        self.put(LD_MEM, _HASH)
        self.put(XOR_K, seed & 0xFFFFFFFF)
        self.put(MUL_K, _MIX_A)
        self.put(TAX)
        self.put(RSH_K, 15)
        self.put(XOR_X)
        self.put(LDX_MEM, _PORTS)
        self.put(XOR_X)
        self.put(MUL_K, _MIX_B)
        self.put(TAX)
        self.put(RSH_K, 13)
        self.put(XOR_X)
        self.put(MUL_K, _MIX_A)
        self.put(RSH_K, 8)
        self.put(MOD_K, one_in)
        kept = self.fresh()
        self.put(JEQ, 0, kept)
        self._go("drop")
        self.label(kept)

    def expression(self, found: Expression, yes: str, no: str) -> None:
        """Code that goes to ``yes`` where the expression holds, else to ``no``."""
        if isinstance(found, Not):
            self.expression(found.inner, no, yes)
        elif isinstance(found, Joined):
            for part in found.parts[:-1]:
                further = self.fresh()
                self.expression(part, *((further, no) if found.word == "and" else (yes, further)))
                self.label(further)
            self.expression(found.parts[-1], yes, no)
        else:
            self._primitive(found, yes, no)

    def _primitive(self, found: Primitive, yes: str, no: str) -> None:
        four, six = self.fresh(), self.fresh()
        if found.kind in {"ip", "ip6"}:
            self._family(*((yes, no) if found.kind == "ip" else (no, yes)), no)
        elif found.kind in {"tcp", "udp"}:
            self._family(four, six, no)
            self._is_protocol(TCP if found.kind == "tcp" else UDP, four, six, yes, no)
        elif found.net is not None:
            is_four = found.net.version == 4
            self._family(*((four, no) if is_four else (no, four)), no)
            self.label(four)
            self.put(LDX_MEM, _NETWORK)
            self._is_in(found, yes)
            self._go(no)
        else:
            self._family(four, six, no)
            protocols = (TCP,) if found.kind == "control" or found.protocol == "tcp" else (TCP, UDP)
            protocols = (UDP,) if found.protocol == "udp" else protocols
            self.label(four)
            self.put(LDX_MEM, _NETWORK)
            self._ports_to_x(no, protocols)
            self._ends_or_flags(found, 0, yes, no)
            self.label(six)
            self.put(LDX_MEM, _NETWORK)
            self.put(LD_B_IND, 6)
            self._one_of(protocols, no)
            self._ends_or_flags(found, 40, yes, no)

    def _go(self, to: str) -> None:
        self.put(JA, 0, to)

    def _family(self, four: str, six: str, other: str) -> None:
        is_four, is_six = self.fresh(), self.fresh()
        self.put(LD_MEM, _KIND)
        self.put(JEQ, _IPV4, is_four)
        self.put(JEQ, _IPV6, is_six)
        self._go(other)
        self.label(is_four)
        self._go(four)
        self.label(is_six)
        self._go(six)

    def _one_of(self, protocols: tuple[int, ...], no: str) -> None:
        """Go on where A is one of the protocols."""
        found = self.fresh()
        for protocol in protocols:
            self.put(JEQ, protocol, found)
        self._go(no)
        self.label(found)

    def _is_protocol(self, protocol: int, four: str, six: str, yes: str, no: str) -> None:
        """The next header of IPv6, or the one after a fragment's (as pcap-filter has it)."""
        found, fragment = self.fresh(), self.fresh()
        self.label(four)
        self.put(LDX_MEM, _NETWORK)
        self.put(LD_B_IND, 9)
        self.put(JEQ, protocol, found)
        self._go(no)
        self.label(six)
        self.put(LDX_MEM, _NETWORK)
        self.put(LD_B_IND, 6)
        self.put(JEQ, protocol, found)
        self.put(JEQ, _FRAGMENT, fragment)
        self._go(no)
        self.label(fragment)
        self.put(LD_B_IND, 40)
        self.put(JEQ, protocol, found)
        self._go(no)
        self.label(found)
        self._go(yes)

    def _is_in(self, found: Primitive, yes: str) -> None:
        """Go to ``yes`` where an address is in the network; X is where the network layer begins."""
        assert found.net is not None
        size = found.net.max_prefixlen // 8
        begin = 12 if size == 4 else 8
        values, masks = (
            struct.unpack(f"!{size // 4}I", item.packed) for item in (found.net.network_address, found.net.netmask)
        )
        for side, place in ("src", begin), ("dst", begin + size):
            if found.side in {"", side}:
                other = self.fresh()
                for index, (value, mask) in enumerate(zip(values, masks, strict=True)):
                    if mask:
                        self.put(LD_W_IND, place + 4 * index)
                        self.put(AND_K, mask)
                        self.put(JEQ, value, "", other)
                self._go(yes)
                self.label(other)

    def _ports_to_x(self, no: str, protocols: tuple[int, ...]) -> None:
        """Make X the place of the ports of an IPv4 packet that has some; X is where the network layer begins."""
        later = self.fresh()
        whole = self.fresh()
        self.put(LD_B_IND, 9)
        self._one_of(protocols, no)
        self.put(LD_H_IND, 6)
        self.put(JSET, 0x1FFF, later, whole)
        self.label(later)
        self._go(no)
        self.label(whole)
        self.put(LD_B_IND, 0)
        self.put(AND_K, 0x0F)
        self.put(LSH_K, 2)
        self.put(ADD_X)
        self.put(TAX)

    def _ends_or_flags(self, found: Primitive, at: int, yes: str, no: str) -> None:
        """The ports or the flags of TCP, ``at`` bytes behind X."""
        good = self.fresh()
        if found.kind == "control":
            self.put(LD_B_IND, at + 13)
            self.put(JSET, 0x07, good)
        else:
            for side, place in ("src", 0), ("dst", 2):
                if found.side in {"", side}:
                    other = self.fresh()
                    self.put(LD_H_IND, at + place)
                    self.put(JGE, found.low, "", other)
                    self.put(JGT, found.high, other, good)
                    self.label(other)
        self._go(no)
        self.label(good)
        self._go(yes)

    def _xor(self, source: int, destination: int, words: int) -> None:
        """The words of both addresses, combined into the hash; X is where the network layer begins afterwards."""
        self.put(LD_IMM, 0)
        self.put(ST, _HASH)
        for index in range(words):
            for place in source, destination:
                self.put(LDX_MEM, _NETWORK)
                self.put(LD_W_IND, place + 4 * index)
                self.put(LDX_MEM, _HASH)
                self.put(XOR_X)
                self.put(ST, _HASH)
            self.put(MUL_K, _MIX_B)
            self.put(ST, _HASH)
        self.put(LDX_MEM, _NETWORK)

    def _keep_ports(self, at: int, then: str) -> None:
        """Both ports combined, but for tunnels."""
        tunnel, whole = self.fresh(), self.fresh()
        for place in (at, at + 2):
            self.put(LD_H_IND, place)
            for port in TUNNEL_PORTS:
                self.put(JEQ, port, tunnel)
        self.put(ST, _PORTS)
        self.put(LD_H_IND, at)
        self.put(LDX_MEM, _PORTS)
        self.put(XOR_X)
        self.put(ST, _PORTS)
        self._go(whole)
        self.label(tunnel)
        self._go(then)
        self.label(whole)
        self._go(then)
