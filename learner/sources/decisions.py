"""Reads Limen's own decision records, as `limen audit export --format jsonl` and `limen audit tail -o jsonl` give them.

The called side's records are taken: a listener, never a caller, determines the service and port of a request. What
leaves the mesh has no called side that speaks, so the caller's record is taken: it has the name that TLS asked for.
Records that sidecars had to drop are counted as lost.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import cast

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object
from mesh.flow import Flow, FlowProtocol, Verdict
from mesh.problems import Diagnostic

_PROTOCOLS = ("tcp", "udp", "http", "grpc")
_LEAVING = frozenset({"LM3230", "LM3231", "LM3232"})
_CALLER_SIDE = "the caller's record of a decision"


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a file of records.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    for number, line in source.lines():
        yield from source.take(number, lambda line=line: [outcome(json_object(line), ledger)])  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether the first line is a record of the audit log."""
    try:
        return {"kind", "time", "source", "schema"} <= set(json_object(head.lstrip().partition(b"\n")[0]))
    except (ValueError, RecursionError):
        return False


def outcome(row: Object, ledger: Ledger) -> Outcome:
    """What becomes of a record: a flow, or why there is none. Raises ValueError or KeyError for a broken one."""
    kind = row["kind"]
    if kind == "lost":
        ledger.lost += fields.number("records", row["records"])
        return "a note of lost records"
    if kind != "decision":
        return f"{str(kind)[:40]} records"
    if row.get("direction") != "inbound":
        return egress_flow(row) or _CALLER_SIDE
    protocol = row["protocol"]
    if protocol not in _PROTOCOLS:
        raise ValueError(f"`protocol` is one of {', '.join(_PROTOCOLS)}")
    caller, peer = fields.text(row, "caller"), fields.text(row, "peer_ip")
    path = fields.text(row, "path")
    return Flow(
        start=fields.moment("time", row["time"]),
        source=fields.spiffe_id(caller),
        destination=fields.spiffe_id(row["destination"]),
        source_ip=fields.ip("peer_ip", peer) if peer is not None else None,
        destination_port=fields.port("port", row["port"]),
        protocol=cast("FlowProtocol", protocol),  # membership was checked above
        method=fields.text(row, "method"),
        path=path.partition("?")[0] if path is not None else None,
        established=caller is not None,
        sensor=f"decisions:{str(row['source'])[:100]}",
        verdict=_verdict(row),
    )


def egress_flow(row: Object) -> Flow | None:
    """A connection that left the mesh, or was not let out: to an address, and to a name where TLS asked for one.

    None for a record of anything else. Raises ValueError or KeyError for one that breaks the format.
    """
    if row.get("direction") != "outbound" or not (row.get("tier") == "egress" or row.get("code") in _LEAVING):
        return None
    host, _, _ = str(row["destination"]).rpartition(":")
    facts = row.get("facts")
    name = fields.text(facts, "name") if isinstance(facts, dict) else None
    rule = row.get("rule")
    if name is None and isinstance(rule, str) and rule.startswith("dns:") and "*" not in rule:
        name = rule.removeprefix("dns:")
    verdict = _verdict(row)
    return Flow(
        start=fields.moment("time", row["time"]),
        source=fields.spiffe_id(row["caller"]),
        destination_ip=fields.ip("destination", host.removeprefix("[").removesuffix("]")),
        destination_port=fields.port("port", row["port"]),
        protocol="tcp",
        established=verdict is not Verdict.DENIED,
        sensor=f"decisions:{str(row['source'])[:100]}",
        verdict=verdict,
        host=name,
    )


def _verdict(row: Object) -> Verdict:
    """What happened, and what the rules alone would have said where a service is observed."""
    if row["decision"] not in {"allow", "deny"}:
        raise ValueError("`decision` is allow or deny")
    if row["decision"] == "deny":
        return Verdict.DENIED
    return Verdict.WOULD_DENY if row.get("policy_decision") == "deny" else Verdict.ALLOWED
