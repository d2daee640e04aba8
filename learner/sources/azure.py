"""Reads Azure's flow logs: of network security groups (versions 1 and 2) and of virtual networks (version 4).

Their tuples name the caller first. `D` is denied (of virtual networks as a state); the packets that came back tell
whether the callee answered, which version 1 does not say.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
from collections.abc import Iterator
from typing import Any

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object, read_json
from mesh.flow import Flow, Verdict
from mesh.problems import Diagnostic

_TCP, _UDP = frozenset({"T", "6"}), frozenset({"U", "17"})


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log.

    Raises Invalid LM4001 when the file cannot be read.
    """
    return read_json(Input(path, findings, ledger), _records)


def recognises(head: bytes) -> bool:
    """Whether it begins as a document of records that hold flow tuples."""
    text = head.lstrip()
    if text[:1] != b"{" or b'"flowTuples"' not in head:
        return False
    first = text.partition(b"\n")[0]
    try:
        return {"records", "flowRecords"} & set(json_object(first)) != set()
    except (ValueError, RecursionError):
        return b'"records"' in head


def _records(row: Object) -> Iterator[list[Outcome]]:
    """Every tuple of a document, or of one record a line."""
    for record in fields.items(row, "records") if "records" in row else [row]:
        if not isinstance(record, dict):
            raise ValueError("a record is an object")
        if "flowRecords" in record:
            for flow in fields.items(fields.mapping(record, "flowRecords"), "flows"):
                for group in fields.items(flow, "flowGroups"):
                    yield from (_network_tuple(item) for item in fields.items(group, "flowTuples"))
        else:
            for rule in fields.items(fields.mapping(record, "properties"), "flows"):
                for flow in fields.items(rule, "flows"):
                    yield from (_group_tuple(item) for item in fields.items(flow, "flowTuples"))


def _network_tuple(item: Any) -> list[Outcome]:  # noqa: ANN401  JSON
    """Of a virtual network: ms, source, destination, ports, protocol, I or O, state, encryption, packets and bytes."""
    words = _words(item, {13})
    return [
        _flow(fields.milliseconds("time", words[0]), words, state=words[7], is_denied=words[7] == "D", back=words[11])
    ]


def _group_tuple(item: Any) -> list[Outcome]:  # noqa: ANN401  JSON
    """Of a security group: seconds, source, destination, ports, T or U, I or O, A or D, and of version 2 a state."""
    words = _words(item, {8, 13})
    state, back = (words[8], words[11]) if len(words) == 13 else ("", None)
    return [_flow(fields.seconds("time", words[0]), words, state=state, is_denied=words[7] == "D", back=back)]


def _words(item: Any, sizes: set[int]) -> list[str]:  # noqa: ANN401  JSON
    if not isinstance(item, str) or len(words := item.split(",")) not in sizes:
        raise ValueError(f"a flow tuple is text of {' or '.join(str(size) for size in sorted(sizes))} values")
    return words


def _flow(start: dt.datetime, words: list[str], *, state: str, is_denied: bool, back: str | None) -> Outcome:
    if words[5] not in _TCP | _UDP:
        return "neither TCP nor UDP"
    # a conversation has one record as it begins (B), others while it lasts (C, E) with what was sent since
    if state == "B" and not is_denied:
        return "of a conversation that begins: its end says what came of it"
    flow = Flow(
        start=start,
        source_ip=fields.ip("source", words[1]),
        destination_ip=fields.ip("destination", words[2]),
        destination_port=fields.port("destination port", words[4]),
        protocol="tcp" if words[5] in _TCP else "udp",
        sensor="azure",
    )
    fields.port("source port", words[3])
    if is_denied:
        return dataclasses.replace(flow, established=False, verdict=Verdict.DENIED)
    if not back:
        return flow
    return dataclasses.replace(flow, established=fields.number("packets", back) > 0)
