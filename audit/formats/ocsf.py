"""OCSF 1.8.0, one event a line: HTTP Activity, Network Activity, API Activity, Authentication, Authorize Session.

A decision on a request is HTTP Activity (4002), on a connection Network Activity (4001), on a gRPC call API Activity
(6003), for a person by the AuthZEN API Authorize Session (3003), and a refused identity Authentication (3002), as
issued identities and logins are. Every other record, whatever its kind, is API Activity. The profile `security_control`
says what was done and by which rule; `trace` and `metadata.correlation_uid` carry the W3C trace id; what the class has
no attribute for is in `unmapped` (schema.ocsf.io/1.8.0).
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from audit.formats.alike import Alike, write
from audit.formats.meaning import (
    PRODUCT,
    VENDOR,
    Meaning,
    Outcome,
    address,
    meaning,
    number,
    read,
    text,
    version,
)
from audit.record import Record

VERSION = "1.8.0"
NETWORK, HTTP, API, AUTHENTICATION, AUTHORIZE = 4001, 4002, 6003, 3002, 3003
_CATEGORY = {NETWORK: 4, HTTP: 4, API: 6, AUTHENTICATION: 3, AUTHORIZE: 3}
# the profile `trace` is none of the other classes'
_PROFILES = {
    HTTP: ["security_control", "trace"],
    API: ["security_control", "trace"],
    NETWORK: ["security_control"],
    AUTHENTICATION: ["security_control"],
    AUTHORIZE: ["security_control"],
}
_METHODS = {"CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7, "TRACE": 8, "PATCH": 9}
_CREATED = frozenset(
    {"token", "propose", "acme-eab", "acme", "add", "begin", "join", "attest", "allow", "init", "federation-add"}
)
_REMOVED = frozenset({"revoke", "acme-revoke", "reject", "remove", "ban", "end", "federation-remove", "taint"})
_OTHER = 99
_SEVERITY = {"info": 1, "notice": 1, "warning": 3, "error": 4}
_ACTION = {
    Outcome.SUCCESS: (1, "Allowed", 1, "Allowed", 1, "Success"),
    Outcome.FAILURE: (2, "Denied", 2, "Blocked", 2, "Failure"),
    Outcome.OBSERVED: (3, "Observed", 17, "Logged", 1, "Success"),
}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
Json = dict[str, Any]


def lines(records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The records as OCSF events, one JSON object a line, in the order of the log.

    Raises Invalid LM6035 for a record that cannot be read.
    """
    alike = Alike(event)
    for index, data in records:
        record = read(index, data)
        yield f"{alike.line(index, record) or write(event(index, record))}\n".encode()


def event(index: int, record: Record) -> Json:
    """The OCSF event of a record.

    Raises Invalid LM6035 for a time that is none.
    """
    said = meaning(index, record)
    rest = {name: value for name, value in record.items() if value is not None}
    for name in ("id", "kind"):
        del rest[name]
    found: Json = {
        "metadata": _metadata(index, said, rest),
        "time": (said.time - _EPOCH) // _MILLISECOND,
        "severity_id": _SEVERITY[said.gravity.value],
        "message": said.message,
    }
    code = text(rest, "code")
    if code is not None:
        found["status_code"] = code
    found["status_id"], found["status"] = _ACTION[said.outcome][4:]
    class_uid, activity, name = _class(record, rest, said, found)
    found |= {
        "class_uid": class_uid,
        "category_uid": _CATEGORY[class_uid],
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class_uid * 100 + activity,
    }
    found["metadata"]["profiles"] = _PROFILES[class_uid]
    if said.trace_id is not None:
        found["metadata"]["correlation_uid"] = said.trace_id
        if rest.get("trace_id") == said.trace_id:
            del rest["trace_id"]
        if "trace" in _PROFILES[class_uid]:
            found["trace"] = {"uid": said.trace_id}
    if rest:
        found["unmapped"] = rest
    return found


def _metadata(index: int, said: Meaning, rest: Record) -> Json:
    found: Json = {
        "version": VERSION,
        "product": _product(),
        "uid": said.id,
        "sequence": index,
        "log_name": "audit",
        "log_provider": said.source,
        "event_code": said.kind,
        "original_time": rest.pop("time"),
    }
    del rest["source"]
    schema = rest.pop("schema", None)
    if schema is not None:
        found["log_version"] = str(schema)
    return found


@functools.cache
def _product() -> Json:
    return {"name": PRODUCT, "vendor_name": VENDOR, "version": version()}


def _class(record: Record, rest: Record, said: Meaning, found: Json) -> tuple[int, int, str]:
    """Fill in what a record's class asks for; the class, the activity's number and its name."""
    if said.kind == "decision":
        _control(rest, said, found)
        if record.get("direction") == "workload-api":
            return _identity(rest, said, found, "Authentication Ticket")
        if record.get("sub") is not None and record.get("caller") is None:
            return _authorize(rest, found)
        _endpoints(rest, found)
        if record.get("protocol") == "grpc":
            return _call(rest, found)
        if record.get("method") is not None or record.get("protocol") == "http":
            return _request(rest, found)
        activity = 5 if said.outcome is Outcome.FAILURE else 1
        if "src_endpoint" not in found and "dst_endpoint" not in found:
            found["dst_endpoint"] = {"name": said.source}
        return NETWORK, activity, "Refuse" if activity == 5 else "Open"
    if said.kind == "issuance":
        return _identity(rest, said, found, "Authentication Ticket")
    if said.kind in {"login", "logout"}:
        is_off = said.kind == "logout" or said.action == "logout"
        return _identity(rest, said, found, "Logoff" if is_off else "Logon")
    return _administration(rest, said, found)


def _control(rest: Record, said: Meaning, found: Json) -> None:
    """The profile `security_control`: what was done, and by which policy and rule."""
    action, action_name, disposition, disposition_name, _, _ = _ACTION[said.outcome]
    found["action_id"], found["action"] = action, action_name
    found["disposition_id"], found["disposition"] = disposition, disposition_name
    if rest.get("decision") in ("allow", "deny"):  # a record may hold anything there, also what has no hash
        del rest["decision"]
    policy, rule, tier, snapshot = (text(rest, name) for name in ("policy", "rule", "tier", "snapshot"))
    if policy is not None or snapshot is not None:
        found["policy"] = {
            "is_applied": said.outcome is not Outcome.OBSERVED,
            **({"name": policy} if policy is not None else {"type": "snapshot"}),
            **({"version": snapshot} if snapshot is not None else {}),
        }
    if rule is not None:
        found["firewall_rule"] = {"uid": rule, **({"category": tier} if tier is not None else {})}
    elif tier is not None:
        rest["tier"] = tier


def _endpoints(rest: Record, found: Json) -> None:
    """Both sides of a connection, as far as the record has them."""
    source: Json = {}
    caller, ip = text(rest, "caller"), address(rest, "peer_ip")
    if caller is not None:
        source["uid"] = caller
    if ip is not None:
        source["ip"] = ip
    if source:
        found["src_endpoint"] = source
    traffic = {
        name: count for name in ("bytes_in", "bytes_out") if (count := number(rest, name, 0, 1 << 53)) is not None
    }
    if traffic:
        found["traffic"] = traffic
    called = text(rest, "destination")
    if called is not None:
        target: Json = {"uid": called}
        port = number(rest, "port", 0, 65535)
        if port is not None:
            target["port"] = port
        found["dst_endpoint"] = target


def _request(rest: Record, found: Json) -> tuple[int, int, str]:
    method, host, path = text(rest, "method"), text(rest, "host"), text(rest, "path")
    request: Json = {}
    if method is not None:
        request["http_method"] = method
    if path is not None:
        before, mark, query = path.partition("?")
        url: Json = {"path": before} if before else {"url_string": path}
        if mark:
            url["query_string"] = query
        if host is not None:
            url["hostname"] = host
        request["url"] = url
    elif host is not None:
        rest["host"] = host
    found["http_request"] = request
    status = number(rest, "status", 100, 599)
    if status is not None:
        found["http_response"] = {"code": status}
    activity = _METHODS.get(method or "", _OTHER if method else 0)
    return HTTP, activity, method or "Unknown"


def _call(rest: Record, found: Json) -> tuple[int, int, str]:
    operation = text(rest, "path") or "unknown"
    service, _, _ = operation.lstrip("/").partition("/")
    found["api"] = {"operation": operation, **({"service": {"name": service}} if service else {})}
    caller = found.get("src_endpoint", {}).get("uid")
    found["actor"] = {"user": {"uid": caller}} if caller is not None else {"app_name": "unknown"}
    found.setdefault("src_endpoint", {"name": "unknown"})
    return API, _OTHER, "Call"


def _authorize(rest: Record, found: Json) -> tuple[int, int, str]:
    kind, person = text(rest, "subject_type"), text(rest, "sub")
    found["user"] = {"uid": person or "unknown", **({"type": kind} if kind is not None else {})}
    found["privileges"] = [text(rest, "method") or "unknown"]
    actor = text(rest, "actor")
    if actor is not None:
        found["actor"] = {"app_name": actor}
    return AUTHORIZE, 1, "Assign Privileges"


def _identity(rest: Record, said: Meaning, found: Json, activity: str) -> tuple[int, int, str]:
    """Somebody or something was given an identity, or was refused one."""
    name = text(rest, "spiffe_id")
    actor = text(rest, "actor")
    found["user"] = {"uid": name} if name is not None else {"name": actor or "unknown"}
    if actor is not None:
        found["actor"] = {"app_name": actor}
    found["service"] = {"name": said.source}
    return AUTHENTICATION, {"Logon": 1, "Logoff": 2, "Authentication Ticket": 3}[activity], activity


def _administration(rest: Record, said: Meaning, found: Json) -> tuple[int, int, str]:
    """A change of the installation, or any other record."""
    actor = text(rest, "actor")
    found["actor"] = {"user": {"name": actor}} if actor is not None else {"app_name": said.source}
    found["api"] = {"operation": f"{said.kind}:{said.action}", "service": {"name": PRODUCT}}
    if rest.get("event") == said.action:
        del rest["event"]
    found["src_endpoint"] = {"name": said.source}
    resources = [
        {"type": name, "uid": value}
        for name in ("review", "snapshot", "authority", "serial", "node", "trust_domain", "token_id", "export")
        if (value := text(rest, name)) is not None
    ]
    if resources:
        found["resources"] = resources
    if said.action in _CREATED:
        return API, 1, "Create"
    if said.action in _REMOVED:
        return API, 4, "Delete"
    if said.kind in {"search", "lost"}:
        return API, (2 if said.kind == "search" else _OTHER), ("Read" if said.kind == "search" else "Lost")
    return API, 3, "Update"
