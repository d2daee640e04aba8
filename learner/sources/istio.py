"""Reads Istio's text access log: the default format of its sidecars and gateways, token by token.

Envoy writes texts of callers (user agent, authority) without escapes, so a caller could write tokens of its own. A
line counts only if it has exactly the tokens of the format and no quotation mark within a quoted one: a caller can
make its own line unreadable, which is counted, and never another one.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import re
from collections.abc import Iterator

from learner.sources import fields
from learner.sources.envoy import is_denied
from learner.sources.ledger import Ledger
from learner.sources.proxied import Exchange, flows_of, host_of, physical
from learner.sources.rows import Input, Outcome
from mesh.flow import Flow
from mesh.problems import Diagnostic

_QUOTED = ("reason", "forwarded", "agent", "request_id", "authority", "upstream_host")
_NAMES = [
    "start",
    "method",
    "path",
    "protocol",
    "code",
    "flags",
    "details",
    "termination",
    "reason",
    "received",
    "sent",
    "duration",
    "service_time",
    "forwarded",
    "agent",
    "request_id",
    "authority",
    "upstream_host",
    "cluster",
    "upstream_local",
    "local",
    "remote",
    "server_name",
    "route",
]
_LINE = re.compile(
    r'\[(?P<start>[^\]\s]+)\] "(?P<method>\S+) (?P<path>\S+) (?P<protocol>\S+)" '
    + " ".join(f'"(?P<{name}>[^"]*)"' if name in _QUOTED else rf"(?P<{name}>[^\s\"]+)" for name in _NAMES[4:])
    + r"\s*\Z"
)


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    for number, line in source.lines():
        yield from source.take(number, lambda line=line: _flows(line))  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether one of the first lines has the tokens of the format: proxies write other lines to the same stream."""
    return any(_LINE.match(line.decode("utf-8", "replace")) for line in head.split(b"\n")[:20])


def _flows(line: bytes) -> list[Outcome]:
    found = _LINE.match(line.decode("utf-8"))
    if found is None:
        raise ValueError("it has not the tokens of Istio's default format")
    row: dict[str, str] = found.groupdict()
    start = fields.moment("start", row["start"])
    method = fields.text(row, "method")
    duration = fields.text(row, "duration")
    exchange = Exchange(
        start=start,
        end=start + dt.timedelta(milliseconds=fields.number("duration", duration, 0, 10**12)) if duration else None,
        downstream=physical(fields.socket("remote", row["remote"])),
        local=fields.socket("local", row["local"]),
        upstream=fields.socket("upstream_host", row["upstream_host"]),
        upstream_local=fields.socket("upstream_local", row["upstream_local"]),
        cluster=fields.text(row, "cluster"),
        method=method,
        path=fields.text(row, "path"),
        status=fields.number("code", row["code"], 0, 999),
        flags=frozenset(row["flags"].split(",")),
        host=host_of(fields.text(row, "server_name"), fields.text(row, "authority")),
        is_denied=is_denied(fields.text(row, "details"), fields.text(row, "termination")),
    )
    return list(flows_of(exchange, "istio"))
