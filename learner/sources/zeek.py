"""Reads Zeek's conn.log, as TSV with its header lines or as JSON lines, gzip or not.

The connection's state says whether it came about; `^` in its history says that Zeek turned its direction round by a
guess, and OTH that no SYN was seen: neither is taken for evidence.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object
from mesh.flow import Flow
from mesh.problems import Diagnostic

_NEEDED = frozenset({"ts", "id.orig_h", "id.resp_h", "id.resp_p", "proto"})
# base/protocols/conn: both sides of the handshake were seen, or only the first
_ESTABLISHED = frozenset({"SF", "S1", "S2", "S3", "RSTO", "RSTR"})
_FAILED = frozenset({"S0", "REJ", "RSTOS0", "SH"})


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log; conversations without evidence of their direction are counted as ambiguous.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    names: list[str] = []
    for number, line in source.lines():
        if line.startswith(b"#"):
            words = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
            if words[0] == "#fields":
                names = words[1:]
            continue
        yield from source.take(number, lambda line=line, names=names: _flow(_row(line, names), ledger))  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether it begins with the header of a conn.log, or with one of its records as JSON."""
    text = head.lstrip()
    if text.startswith(b"#separator"):
        for line in text.split(b"\n")[:12]:
            if line.startswith(b"#fields\t"):
                return set(line.decode("utf-8", "replace").split("\t")) >= _NEEDED
        return False
    try:
        return set(json_object(text.partition(b"\n")[0])) >= _NEEDED
    except (ValueError, RecursionError):
        return False


def _row(line: bytes, names: list[str]) -> Object:
    if line.lstrip().startswith(b"{"):
        return json_object(line)
    words = line.decode("utf-8").rstrip("\r\n").split("\t")
    if not names:
        raise ValueError("a record of TSV stands before the line of field names")
    if len(words) != len(names):
        raise ValueError(f"a record has {len(names)} fields, this one {len(words)}")
    return {name: word for name, word in zip(names, words, strict=True) if word not in {"-", "(empty)"}}


def _flow(row: Object, ledger: Ledger) -> list[Outcome]:
    protocol = row["proto"]
    if protocol not in {"tcp", "udp"}:
        return ["neither TCP nor UDP"]
    source, destination = fields.ip("id.orig_h", row["id.orig_h"]), fields.ip("id.resp_h", row["id.resp_h"])
    port = fields.port("id.resp_p", row["id.resp_p"])
    state = fields.text(row, "conn_state") or ""
    if "^" in (fields.text(row, "history") or "") or (protocol == "tcp" and state in {"OTH", "SHR", "RSTRH", ""}):
        ledger.mark_ambiguous(f"{source}:{row.get('id.orig_p')} - {destination}:{port} {protocol}")
        return []
    start = _moment(row["ts"])
    duration = row.get("duration")
    return [
        Flow(
            start=start,
            end=start + (fields.seconds("duration", duration) - fields.seconds("duration", 0)) if duration else None,
            source_ip=source,
            destination_ip=destination,
            destination_port=port,
            protocol="tcp" if protocol == "tcp" else "udp",
            established=state in _ESTABLISHED if state in _ESTABLISHED | _FAILED else None,
            sensor="zeek",
        )
    ]


def _moment(value: object) -> dt.datetime:
    """Seconds since 1970, or text where Zeek was told to write JSON times that way."""
    return fields.moment("ts", value) if isinstance(value, str) and "T" in value else fields.seconds("ts", value)
