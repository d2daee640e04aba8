"""Reads captures as flows: one per conversation, initiator first; what could not be read is counted and said."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from learner.packets import CUT, CUT_INSIDE
from learner.sources.ledger import Ledger
from learner.sources.rows import open_bytes
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span
from mesh.uncollected import uncollected

if TYPE_CHECKING:
    from learner.capture import Capture
    from learner.flows import Row
    from learner.hostnames import Hostnames

_MAGIC = frozenset(
    {b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a"}
)


Connection = tuple[str, tuple[str, int], tuple[str, int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What a host's sockets say of connections that began before a capture: protocol, caller, callee."""

    connections: frozenset[Connection]


def read_table(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> list[Row]:
    """The flow table of a capture.

    Raises Invalid LM4001 when the file cannot be read, LM4010 when it is no capture.
    """
    from learner.capture import Capture  # noqa: PLC0415  numpy is for those who read a capture

    return _table(Capture(str(path), ledger.skipped), path, findings, ledger)


def _table(capture: Capture, path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> list[Row]:
    try:
        # thousands of conversations and no garbage
        with open_bytes(path) as file, uncollected():
            capture.read(file)
            found = capture.table.rows()
    except (OSError, EOFError, zlib.error) as err:
        raise Invalid("LM4001", file=str(path), reason=getattr(err, "strerror", None) or str(err)) from err
    return settle(capture, found, findings, ledger)


def settle(
    capture: Capture, found: list[Row], findings: list[Diagnostic], ledger: Ledger, snapshot: Snapshot | None = None
) -> list[Row]:
    """The rows of a capture with their directions, and its account: what was skipped, lost, cut or is ambiguous."""
    rows = directed(found, snapshot) if snapshot or any(row.is_ambiguous for row in found) else found
    ledger.seen += capture.packets
    ledger.lost += sum(capture.dropped.values())
    ledger.cut += ledger.skipped[CUT] + ledger.skipped[CUT_INSIDE]
    place = Span(file=ledger.file, line=1, column=1)
    if ledger.skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(ledger.skipped.items()) if count)
        if counts:
            findings.append(Diagnostic(code="LM4011", span=place, facts={"counts": counts}))
    for row in rows:
        if row.is_ambiguous:
            ledger.mark_ambiguous(
                f"{row.source_ip}:{row.source_port} - {row.destination_ip}:{row.destination_port} {row.protocol}"
            )
    if ledger.ambiguous:
        findings.append(Diagnostic(code="LM4012", span=place, facts={"count": ledger.ambiguous}))
    return rows


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The conversations of a capture as flows; ambiguous directions are left out: they are counted, not guessed.

    Raises Invalid LM4001, LM4010.
    """
    from learner.capture import Capture  # noqa: PLC0415  numpy is for those who read a capture
    from learner.hostnames import Hostnames  # noqa: PLC0415

    names = Hostnames()
    rows = _table(Capture(str(path), ledger.skipped, names=names), path, findings, ledger)
    yield from flows_of(rows, ledger, "pcap", names)


def flows_of(rows: Iterable[Row], ledger: Ledger, sensor: str, names: Hostnames | None = None) -> Iterator[Flow]:
    """The rows whose direction is known, as flows; with the names of their peers where the capture shows them."""
    for row in rows:
        if not row.is_ambiguous:
            ledger.flows += 1
            yield Flow(
                start=row.first,
                end=row.last,
                source_ip=row.source_ip,
                source_port=row.source_port,
                destination_ip=row.destination_ip,
                destination_port=row.destination_port,
                protocol="tcp" if row.protocol == "tcp" else "udp",
                established=row.established,
                sensor=sensor,
                host=None if names is None else names.name_of(row),
            )


def directed(rows: list[Row], snapshot: Snapshot | None = None) -> list[Row]:
    """Find the direction of conversations that began before the capture, where something proves who listens.

    0. Connections of a host's sockets, as a snapshot has them, are known; so are those of UDP, where the first packet
       need not be the first one ever.
    1. A socket that answered a SYN listens, for its protocol.
    2. A conversation of unknown direction with exactly one such socket was begun by the other one.
    3. With both or none, nobody knows, and it stays marked.
    """
    known = snapshot.connections if snapshot else frozenset[Connection]()
    # (1)
    listening = {
        (row.destination_ip, row.destination_port)
        for row in rows
        if row.protocol == "tcp" and not row.is_ambiguous and row.established
    }
    out = []
    for found in rows:
        row = found
        source, destination = (row.source_ip, row.source_port), (row.destination_ip, row.destination_port)
        ends = (row.protocol, source, destination)
        # (0), (2), (3)
        if (row.is_ambiguous or row.protocol == "udp") and (
            ends in known or (row.protocol, destination, source) in known
        ):
            row = row if ends in known else _turned(row)
            row = row._replace(is_ambiguous=False)
        elif row.is_ambiguous and (source in listening) != (destination in listening):
            row = (_turned(row) if source in listening else row)._replace(is_ambiguous=False)
        out.append(row)
    return out


def _turned(row: Row) -> Row:
    return row._replace(
        source_ip=row.destination_ip,
        source_port=row.destination_port,
        destination_ip=row.source_ip,
        destination_port=row.source_port,
    )


def recognises(head: bytes) -> bool:
    """Whether a file begins like a pcap or pcapng file of either byte order."""
    return head[:4] in _MAGIC
