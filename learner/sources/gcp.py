"""Reads Google Cloud's VPC flow logs as Cloud Logging exports them: one JSON object a line, or a list of them.

They are sampled, at a rate that a record does not say, and hold no TCP flags: who began is told by who talks to
several (`learner.sources.pairs`).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.pairs import Half, Pairs
from learner.sources.rows import Input, Object, Outcome, json_object, read_json
from mesh.flow import Flow
from mesh.problems import Diagnostic

_PROTOCOLS = {6: "tcp", 17: "udp"}


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log; conversations whose direction nothing tells are counted as ambiguous.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source, pairs = Input(path, findings, ledger), Pairs(ledger, "gcp")

    def parse(row: Object) -> Iterable[Iterable[Outcome]]:
        half = _half(row)
        if isinstance(half, str):
            return [[half]]
        ledger.mark_sampled(0)
        return [pairs.add(half)]

    yield from read_json(source, parse)
    yield from source.count(pairs.finish())


def recognises(head: bytes) -> bool:
    """Whether the first record has a connection in its payload."""
    text = head.lstrip()
    if text[:1] == b"[":
        return b'"jsonPayload"' in head and b'"src_ip"' in head and b'"reporter"' in head
    try:
        row = json_object(text.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    payload = row.get("jsonPayload")
    return isinstance(payload, dict) and isinstance(payload.get("connection"), dict)


def _half(row: Object) -> Half | str:
    payload = fields.mapping(row, "jsonPayload")
    connection = fields.mapping(payload, "connection")
    protocol = _PROTOCOLS.get(fields.number("protocol", connection["protocol"], 0, 255))
    if protocol is None:
        return "neither TCP nor UDP"
    pod = fields.mapping(fields.mapping(payload, "src_gke_details"), "pod")
    instance = fields.mapping(payload, "src_instance")
    return Half(
        start=fields.moment("start_time", payload["start_time"]),
        end=fields.moment("end_time", payload["end_time"]),
        source=(fields.ip("src_ip", connection["src_ip"]), fields.port("src_port", connection["src_port"])),
        destination=(fields.ip("dest_ip", connection["dest_ip"]), fields.port("dest_port", connection["dest_port"])),
        protocol="tcp" if protocol == "tcp" else "udp",
        replica=fields.text(pod, "pod_name") or fields.text(instance, "vm_name"),
    )
