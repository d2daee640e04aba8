"""What the forms say alike of a record: how grave it is, how it ended, what it is about in a sentence, its trace.

A form takes a record apart with `text` and `number`: what it took is gone from the rest, and what is left goes where
the form keeps what it has no place for. So nothing is lost, whatever a later version records. This module writes no
form.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import importlib.metadata
import ipaddress
import json
import re

from audit.record import Record
from mesh.clock import parse_time
from mesh.problems import Invalid

VENDOR = PRODUCT = "Limen"
_ESSENTIAL = ("id", "time", "kind", "source")
_TRACE = re.compile(r"[0-9a-f]{32}\Z")
_SPAN = re.compile(r"[0-9a-f]{16}\Z")
# W3C Trace Context §3.2: version, trace id, parent id, flags
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?\Z")
_MAX_MESSAGE = 1000
_DECODE = json.JSONDecoder().decode


class Gravity(enum.Enum):
    """How grave a record is, in the four steps that every form has."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"


class Outcome(enum.Enum):
    """How the thing ended that a record is about. OBSERVED: the rules say no, and the service only observes."""

    SUCCESS = "success"
    FAILURE = "failure"
    OBSERVED = "observed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What every form says of a record."""

    id: str
    time: dt.datetime
    kind: str
    source: str
    action: str
    gravity: Gravity
    outcome: Outcome
    message: str
    trace_id: str | None
    span_id: str | None


def read(index: int, data: bytes) -> Record:
    """The record at an index.

    Raises Invalid LM6035 for bytes that are no JSON object with a record's four texts.
    """
    try:
        found = _DECODE(data.decode())
    except (ValueError, RecursionError) as err:
        raise Invalid("LM6035", index=index, reason="it is not strict JSON") from err
    if not isinstance(found, dict) or not all(type(found.get(name)) is str for name in _ESSENTIAL):
        raise Invalid("LM6035", index=index, reason="it lacks `id`, `time`, `kind` or `source`")
    return found


def moment(index: int, text_of_time: str) -> dt.datetime:
    """A record's time.

    Raises Invalid LM6035.
    """
    try:
        return parse_time(text_of_time)
    except ValueError as err:
        raise Invalid("LM6035", index=index, reason="its time is not RFC 3339") from err


def meaning(index: int, record: Record) -> Meaning:
    """What every form says of a record that `read` gave.

    Raises Invalid LM6035 for a time that is none.
    """
    kind, outcome = str(record["kind"]), outcome_of(record)
    trace_id, span_id = trace_of(record)
    return Meaning(
        id=str(record["id"]),
        time=moment(index, str(record["time"])),
        kind=kind,
        source=str(record["source"]),
        action=action_of(record),
        gravity=gravity_of(record, outcome),
        outcome=outcome,
        message=message_of(record),
        trace_id=trace_id,
        span_id=span_id,
    )


def action_of(record: Record) -> str:
    """What was done, in one word: a decision's is `allow` or `deny`, a search's what it looked for."""
    for name in ("decision", "event", "search"):
        value = record.get(name)
        if type(value) is str and value:
            return value
    return str(record["kind"])


def outcome_of(record: Record) -> Outcome:
    """How it ended: only a denial and a refusal fail."""
    if record.get("decision") == "deny" or record.get("event") == "refusal" or record.get("outcome") == "failure":
        return Outcome.FAILURE
    if record.get("decision") == "allow" and record.get("policy_decision") == "deny":
        return Outcome.OBSERVED
    return Outcome.SUCCESS


def gravity_of(record: Record, outcome: Outcome) -> Gravity:
    """How grave it is: lost records are errors, denials warnings, changes worth a notice."""
    if record["kind"] == "lost":
        return Gravity.ERROR
    if outcome is not Outcome.SUCCESS:
        return Gravity.WARNING
    return Gravity.INFO if record["kind"] in {"decision", "search", "issuance"} else Gravity.NOTICE


def message_of(record: Record) -> str:
    """The record in a sentence, in one line of at most 1000 characters."""
    kind = record["kind"]
    if kind == "decision":
        caller, called = record.get("caller") or "nobody", record.get("destination") or "-"
        request = " ".join(str(record[name]) for name in ("method", "path") if record.get(name))
        by = "/".join(str(record[name]) for name in ("policy", "rule") if record.get(name)) or record.get("code", "")
        port = record.get("port")
        where = f"{called}:{port}" if port is not None else str(called)
        sentence = f"{record.get('decision')} {caller} to {where} {request} by {by}"
    elif kind == "issuance":
        names = record.get("spiffe_id") or record.get("names") or "-"
        sentence = f"issued {names} to {record.get('actor', '-')}"
    elif kind == "lost":
        sentence = f"{record.get('records')} records were lost at {record['source']}"
    else:
        sentence = f"{kind} {action_of(record)} by {record.get('actor') or record['source']}"
    return " ".join(sentence[: 2 * _MAX_MESSAGE].split())[:_MAX_MESSAGE]


def trace_of(record: Record) -> tuple[str | None, str | None]:
    """The W3C trace id and span id of a record, each None where it has no valid one."""
    trace_id, span_id = record.get("trace_id"), record.get("span_id")
    parent = record.get("traceparent")
    if trace_id is None and isinstance(parent, str) and (match := _PARENT.match(parent)) is not None:
        trace_id, span_id = match.groups()
    has_trace = isinstance(trace_id, str) and _TRACE.match(trace_id) is not None and trace_id.strip("0") != ""
    has_span = has_trace and isinstance(span_id, str) and _SPAN.match(span_id) is not None and span_id.strip("0") != ""
    return str(trace_id) if has_trace else None, str(span_id) if has_span else None


def text(rest: Record, name: str) -> str | None:
    """Take a text that is not empty out of the rest; None where there is none."""
    value = rest.get(name)
    if type(value) is str and value:
        del rest[name]
        return value
    return None


def number(rest: Record, name: str, least: int, most: int) -> int | None:
    """Take a whole number out of the rest; None where there is none within the bounds."""
    value = rest.get(name)
    if type(value) is int and least <= value <= most:
        del rest[name]
        return value
    return None


@functools.lru_cache(maxsize=4096)
def is_address(given: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return False
    return True


def address(rest: Record, name: str) -> str | None:
    """Take an IP address out of the rest; None where there is none."""
    value = rest.get(name)
    if type(value) is str and is_address(value):
        del rest[name]
        return value
    return None


@functools.cache
def version() -> str:
    """The version of this product."""
    return importlib.metadata.version("limen")
