"""Reads captures as flows: one per conversation, initiator first; what could not be read is counted and said."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Iterator

from learner.flows import Row, build_table
from learner.packets import read_frames
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span


def read_table(path: pathlib.Path, findings: list[Diagnostic]) -> list[Row]:
    """The flow table of a capture.

    Raises Invalid LM4001 when the file cannot be read, LM4010 when it is no capture.
    """
    skipped: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            rows = build_table(read_frames(file, str(path)), skipped)
    except OSError as err:
        raise Invalid("LM4001", file=str(path), reason=err.strerror or str(err)) from err
    place = Span(file=str(path), line=1, column=1)
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        findings.append(Diagnostic(code="LM4011", span=place, facts={"counts": counts}))
    ambiguous = sum(row.is_ambiguous for row in rows)
    if ambiguous:
        findings.append(Diagnostic(code="LM4012", span=place, facts={"count": ambiguous}))
    return rows


def read_flows(path: pathlib.Path, findings: list[Diagnostic]) -> Iterator[Flow]:
    """The conversations of a capture as flows; ambiguous directions are left out: they are counted, not guessed.

    Raises Invalid LM4001, LM4010.
    """
    for row in read_table(path, findings):
        if not row.is_ambiguous:
            yield Flow(
                start=row.first,
                end=row.last,
                source_ip=row.source_ip,
                destination_ip=row.destination_ip,
                destination_port=row.destination_port,
                protocol="tcp" if row.protocol == "tcp" else "udp",
                established=row.established,
                sensor="pcap",
            )
