"""OpenTelemetry logs in OTLP's JSON encoding (OTLP 1.7, opentelemetry.proto.logs.v1), many records in one `LogsData`.

Trace and span ids are hexadecimal and 64-bit numbers texts, as that encoding has them. The body is the record as it
stands in the log; attributes are those of the semantic conventions where they have one, and `limen.…` elsewhere. An
`ExportLogsServiceRequest` has the same form, so that a line of a file can be sent as it is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from audit.formats.alike import write
from audit.formats.meaning import Gravity, is_address, meaning, read, version

BATCH = 512
"""Records in one `LogsData`: a receiver takes 4 MiB at least."""
# the numbers of the log data model's severities: INFO, INFO2, WARN, ERROR
_SEVERITY = {
    Gravity.INFO: (9, "INFO"),
    Gravity.NOTICE: (10, "INFO2"),
    Gravity.WARNING: (13, "WARN"),
    Gravity.ERROR: (17, "ERROR"),
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_TEXTS = (
    ("limen.source", "source"),
    ("limen.direction", "direction"),
    ("limen.caller", "caller"),
    ("limen.destination", "destination"),
    ("limen.decision", "decision"),
    ("limen.policy_decision", "policy_decision"),
    ("limen.mode", "mode"),
    ("limen.tier", "tier"),
    ("limen.policy", "policy"),
    ("limen.rule", "rule"),
    ("limen.snapshot", "snapshot"),
    ("limen.code", "code"),
    ("limen.event", "event"),
    ("limen.spiffe_id", "spiffe_id"),
    ("limen.actor", "actor"),
    ("network.protocol.name", "protocol"),
    ("http.request.method", "method"),
    ("server.address", "host"),
)
Json = dict[str, Any]


def lines(records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The records as `LogsData`, one a line for up to 512 records, in the order of the log.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    batch: list[tuple[int, bytes]] = []
    for item in records:
        batch.append(item)
        if len(batch) == BATCH:
            yield logs_data(batch) + b"\n"
            batch = []
    if batch:
        yield logs_data(batch) + b"\n"


def logs_data(records: Sequence[tuple[int, bytes]]) -> bytes:
    """Records as one `LogsData`, which is one `ExportLogsServiceRequest` too.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    resource = {"attributes": [_text("service.name", "limen"), _text("service.version", version())]}
    scope = {"name": "limen.audit", "version": version()}
    logs = [log_record(index, data) for index, data in records]
    found = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": logs}]}]}
    return write(found).encode()


def log_record(index: int, data: bytes) -> Json:
    """The `LogRecord` of a record.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    record = read(index, data)
    said = meaning(index, record)
    nanoseconds = str((said.time - _EPOCH) // _MICROSECOND * 1000)
    number, word = _SEVERITY[said.gravity]
    attributes = [_text("log.record.uid", said.id), _whole("limen.index", index), _text("limen.kind", said.kind)]
    for key, name in _TEXTS:
        value = record.get(name)
        if type(value) is str and value:
            attributes.append(_text(key, value))
    path, port, ip = record.get("path"), record.get("port"), record.get("peer_ip")
    if type(path) is str:
        before, mark, query = path.partition("?")
        attributes.append(_text("url.path", before))
        if mark:
            attributes.append(_text("url.query", query))
    if type(port) is int and 0 <= port <= 65535:
        attributes.append(_whole("server.port", port))
    if type(ip) is str and is_address(ip):
        attributes.append(_text("client.address", ip))
    found: Json = {
        "timeUnixNano": nanoseconds,
        "observedTimeUnixNano": nanoseconds,
        "severityNumber": number,
        "severityText": word,
        "eventName": f"limen.{said.kind}",
        "body": {"stringValue": data.decode()},
        "attributes": attributes,
    }
    if said.trace_id is not None:
        found["traceId"] = said.trace_id
    if said.span_id is not None:
        found["spanId"] = said.span_id
    return found


def _text(key: str, value: str) -> Json:
    return {"key": key, "value": {"stringValue": value}}


def _whole(key: str, value: int) -> Json:
    return {"key": key, "value": {"intValue": str(value)}}
