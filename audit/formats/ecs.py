"""Elastic Common Schema 9.4, one document a line: what Elasticsearch, Logstash and Elastic Agent index as it is.

`event.original` holds the record as it stands in the log, so that nothing is lost; what ECS has no field for and people
search by is below `limen` (ECS lets a product have custom fields under its own name).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from audit.formats.alike import write
from audit.formats.meaning import (
    PRODUCT,
    VENDOR,
    Gravity,
    Meaning,
    Outcome,
    is_address,
    meaning,
    read,
    version,
)
from audit.record import Record
from mesh.clock import format_time

VERSION = "9.4.0"
# syslog's numbers, as `event.severity` has them elsewhere
_SEVERITY = {Gravity.INFO: 6, Gravity.NOTICE: 5, Gravity.WARNING: 4, Gravity.ERROR: 3}
_DIRECTIONS = frozenset({"inbound", "outbound"})
_OWN = ("mode", "policy_decision", "snapshot", "tier", "direction", "actor", "spiffe_id", "serial", "review", "node")
Json = dict[str, Any]


def lines(records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The records as ECS documents, one JSON object a line, in the order of the log.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    for index, data in records:
        yield f"{write(document(index, data))}\n".encode()


def document(index: int, data: bytes) -> Json:
    """The ECS document of a record.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    record = read(index, data)
    said = meaning(index, record)
    category, kinds = _categories(record, said)
    found: Json = {
        "@timestamp": format_time(said.time),
        "ecs": {"version": VERSION},
        "message": said.message,
        "log": {"level": said.gravity.value},
        "observer": {"vendor": VENDOR, "product": PRODUCT, "type": "policy-engine", "version": version()},
        "event": {
            "kind": "event",
            "module": "limen",
            "dataset": "limen.audit",
            "provider": said.source,
            "category": category,
            "type": kinds,
            "action": said.action,
            "outcome": "failure" if said.outcome is Outcome.FAILURE else "success",
            "id": said.id,
            "sequence": index,
            "severity": _SEVERITY[said.gravity],
            "original": data.decode(),
        },
        "limen": {"kind": said.kind, **{name: record[name] for name in _OWN if type(record.get(name)) is str}},
    }
    if type(record.get("code")) is str:
        found["event"]["code"] = record["code"]
    if said.trace_id is not None:
        found["trace"] = {"id": said.trace_id}
    if said.span_id is not None:
        found["span"] = {"id": said.span_id}
    _sides(record, found)
    _request(record, found)
    _rule(record, found)
    return found


def _categories(record: Record, said: Meaning) -> tuple[list[str], list[str]]:
    """`event.category` and `event.type`, of the values that ECS allows."""
    verdict = "denied" if said.outcome is Outcome.FAILURE else "allowed"
    if said.kind in {"decision", "search"}:
        if record.get("direction") == "workload-api":
            return ["authentication"], ["start", verdict]
        if record.get("direction") == "authzen" or said.kind == "search":
            return ["iam"], ["info", verdict]
        is_request = record.get("method") is not None
        return (["network", "web"] if is_request else ["network"]), ["access" if is_request else "connection", verdict]
    if said.kind in {"login", "logout"}:
        return ["authentication"], ["end" if "logout" in {said.kind, said.action} else "start"]
    if said.kind == "issuance":
        return ["iam"], ["creation"]
    if said.kind == "lost":
        return ["host"], ["error"]
    return ["configuration"], ["change"]


def _sides(record: Record, found: Json) -> None:
    ip, port = record.get("peer_ip"), record.get("port")
    caller, called, actor = (_text(record, name) for name in ("caller", "destination", "actor"))
    named = _text(record, "spiffe_id") or _text(record, "sub")
    address = ip if type(ip) is str and is_address(ip) else None
    people = [name for name in (caller, actor, named) if name is not None]
    parts: dict[str, Json] = {
        "source": {"ip": address, "address": caller},
        "destination": {"address": called, "port": port if type(port) is int and 0 <= port <= 65535 else None},
        "user": {"id": caller or named, "name": actor},
        "related": {"ip": [address] if address is not None else None, "user": people or None},
    }
    for name, part in parts.items():
        said = {field: value for field, value in part.items() if value is not None}
        if said:
            found[name] = said


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    return value if type(value) is str and value else None


def _request(record: Record, found: Json) -> None:
    method, host, path, protocol, direction = (
        record.get(name) for name in ("method", "host", "path", "protocol", "direction")
    )
    if type(method) is str:
        found["http"] = {"request": {"method": method}}
    url: Json = {}
    if type(path) is str:
        before, mark, query = path.partition("?")
        url |= {"original": path, "path": before, **({"query": query} if mark else {})}
    if type(host) is str:
        url["domain"] = host
    if url:
        found["url"] = url
    network: Json = {}
    if type(protocol) is str:
        network |= {"transport": "tcp", **({"protocol": protocol} if protocol != "tcp" else {})}
    if type(direction) is str and direction in _DIRECTIONS:
        network["direction"] = direction
    if network:
        found["network"] = network


def _rule(record: Record, found: Json) -> None:
    names = {"id": "rule", "ruleset": "policy", "category": "tier", "version": "snapshot"}
    rule = {to: record[name] for to, name in names.items() if type(record.get(name)) is str and record[name]}
    if "id" in rule or "ruleset" in rule:
        found["rule"] = rule
