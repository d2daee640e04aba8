"""Reads AWS VPC flow logs, versions 2 to 5: text with or without its line of field names, gzip or not.

Records are of one direction and one window of time; `tcp-flags` (version 3) tells who began. Behind a NAT gateway the
packet's own addresses (`pkt-srcaddr`, `pkt-dstaddr`) are taken. SKIPDATA is a window whose records were lost, NODATA
one without traffic.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.pairs import Half, Pairs
from learner.sources.rows import Input, Outcome
from mesh.flow import Flow
from mesh.problems import Diagnostic

_DEFAULT = [
    "version",
    "account-id",
    "interface-id",
    "srcaddr",
    "dstaddr",
    "srcport",
    "dstport",
    "protocol",
    "packets",
    "bytes",
    "start",
    "end",
    "action",
    "log-status",
]
_NEEDED = frozenset({"dstport", "protocol", "start", "end", "action"})
_PROTOCOLS = {"6": "tcp", "17": "udp"}
_SYN, _RST, _SYN_ACK = 2, 4, 18


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log; conversations whose direction nothing tells are counted as ambiguous.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    pairs = Pairs(ledger, "vpc")
    names: list[str] = _DEFAULT

    def parse(names: list[str], words: list[str]) -> Iterable[Outcome]:
        return pairs.outcomes(_half(names, words, ledger))

    for number, line in source.lines():
        words = line.decode("utf-8", "replace").split()
        if _is_header(words):
            names = words
            if not set(names) >= _NEEDED:
                ledger.seen += 1
                source.broken(number, f"the log lacks {', '.join(sorted(_NEEDED - set(names)))}")
            continue
        yield from source.take(number, functools.partial(parse, names, words))
    yield from source.count(pairs.finish())


def recognises(head: bytes) -> bool:
    """Whether the first line names the fields of such a log, or is a record of version 2."""
    words = head.lstrip().partition(b"\n")[0].decode("utf-8", "replace").split()
    if _is_header(words):
        return set(words) >= _NEEDED
    return (
        len(words) == len(_DEFAULT)
        and words[0] == "2"
        and words[2].startswith("eni-")
        and words[-1] in {"OK", "NODATA", "SKIPDATA"}
    )


def _is_header(words: list[str]) -> bool:
    return "srcaddr" in words and "dstaddr" in words


def _half(names: list[str], words: list[str], ledger: Ledger) -> Half | str:
    if len(words) != len(names):
        raise ValueError(f"a record has {len(names)} fields, this one {len(words)}")
    row = dict(zip(names, words, strict=True))
    status = row.get("log-status", "OK")
    if status == "SKIPDATA":
        ledger.gaps += 1
        return "SKIPDATA: records of a window were lost"
    if status == "NODATA":
        return "NODATA: a window without traffic"
    protocol = _PROTOCOLS.get(row["protocol"])
    if protocol is None:
        return "neither TCP nor UDP"
    if row["action"] not in {"ACCEPT", "REJECT"}:
        raise ValueError(f"`action` is ACCEPT or REJECT: {row['action'][:40]}")
    flags = fields.number("tcp-flags", row["tcp-flags"], 0, 255) if row.get("tcp-flags", "-") != "-" else None
    return Half(
        start=fields.seconds("start", row["start"]),
        end=fields.seconds("end", row["end"]),
        source=(_address(row, "srcaddr"), fields.port("srcport", row["srcport"])),
        destination=(_address(row, "dstaddr"), fields.port("dstport", row["dstport"])),
        protocol="tcp" if protocol == "tcp" else "udp",
        is_initiator=_began(flags) if protocol == "tcp" else None,
        is_refusal=flags is not None and bool(flags & _RST) and not flags & _SYN,
        is_denied=row["action"] == "REJECT",
    )


def _address(row: dict[str, str], name: str) -> str:
    """The packet's own address where the log has it: the other is that of the interface it passed."""
    own = row.get(f"pkt-{name}", "-")
    return fields.ip(name, own if own != "-" else row[name])


def _began(flags: int | None) -> bool | None:
    """Flags are ORed over the window, and an ACK alone is not recorded: 18 is the callee's, 2 the caller's."""
    if flags is None or not flags & _SYN:
        return None
    return flags & _SYN_ACK != _SYN_ACK
