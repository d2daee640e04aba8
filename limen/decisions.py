"""The public JSON of requests and decisions, as `limen can`, `limen policy eval` and the API speak it.

Requests are read strictly: an unknown field or a wrong type is an error, because a request that was guessed would get
a decision that nobody asked for. This module decides nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from typing import TypeVar, cast

from mesh import canonicaljson
from mesh.clock import parse_time
from mesh.request import Decision, Effect, Mode, NearestMiss, Protocol, Request
from policyengine.model import PROTOCOLS, PolicySet

T = TypeVar("T")
_TEXTS = ("source", "method", "host", "path", "peer_ip", "forwarded_ip")
_ATTRIBUTES = frozenset({"source", "method", "path", "host", "headers", "claims", "peer_ip", "forwarded_ip", "time"})
"""What may be unknown of a request; of headers and claims also one by name, `headers.x-tenant`."""
_FIELDS = frozenset({"id", "service", "port", "protocol", "headers", "claims", "time", "unknown", *_TEXTS})


class DecisionError(ValueError):
    """The object is no decision."""


class RequestError(ValueError):
    """The object is no request; the message states the rule that it breaks."""


def request_from_json(row: object, *, now: dt.datetime) -> Request:
    """Read the public JSON object of a request; a missing `time` is ``now``.

    Raises RequestError with the rule that the object breaks.
    """
    if not isinstance(row, dict):
        raise RequestError("a request is a JSON object")
    for name in row:
        if name not in _FIELDS:
            raise RequestError(f"a request has no field `{name}`")
    service, port, protocol = row.get("service"), row.get("port"), row.get("protocol")
    if not isinstance(service, str):
        raise RequestError("`service` is text")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise RequestError("`port` is a whole number from 0 to 65535")
    if protocol not in PROTOCOLS:
        raise RequestError(f"`protocol` is one of {', '.join(PROTOCOLS)}")
    texts = {name: _optional(row, name, str, "text") for name in _TEXTS}
    claims = _optional(row, "claims", dict, "an object")
    return Request(
        service=service,
        port=port,
        protocol=cast("Protocol", protocol),  # membership was checked above
        source=texts["source"],
        method=texts["method"],
        host=texts["host"],
        path=texts["path"],
        peer_ip=texts["peer_ip"],
        forwarded_ip=texts["forwarded_ip"],
        headers=_headers(row.get("headers")),
        claims=claims,
        time=_time(row.get("time"), now),
        unknown=_unknown(row.get("unknown")),
    )


def _optional(row: Mapping[str, object], name: str, kind: type[T], expected: str) -> T | None:
    value = row.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise RequestError(f"`{name}` is {expected} or null")


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RequestError("`headers` is a list of [name, value]")
    found = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(item, str) for item in pair):
            raise RequestError("`headers` is a list of [name, value]")
        found.append((pair[0], pair[1]))
    return tuple(found)


def _time(value: object, now: dt.datetime) -> dt.datetime:
    if value is None:
        return now
    try:
        return parse_time(value if isinstance(value, str) else "")
    except ValueError as err:
        raise RequestError("`time` is an RFC 3339 timestamp with an offset") from err


def _unknown(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError("`unknown` is a list of attribute names")
    for item in value:
        # a name that nothing reads would leave its attribute known
        base, dot, own = item.partition(".")
        is_one_of_many = dot and own and (base.lower() == "headers" or base == "claims")
        if item not in _ATTRIBUTES and not is_one_of_many:
            raise RequestError(f"`unknown` names no attribute `{item[:80]}`: it has {', '.join(sorted(_ATTRIBUTES))}")
    return frozenset(value)


def decision_to_json(
    decision: Decision, *, nearest: NearestMiss | None = None, candidate: Decision | None = None
) -> dict[str, object]:
    """The public JSON object of a decision."""
    return {
        **_plain(decision),
        "candidate": None if candidate is None else _plain(candidate),
        "nearest": None
        if nearest is None
        else {
            "policy": nearest.policy,
            "rule": nearest.rule,
            "differs": list(nearest.differs),
            "fix": nearest.fix,
        },
    }


def _plain(decision: Decision) -> dict[str, object]:
    return {
        "decision": str(decision.effect),
        "policy_decision": str(decision.policy_effect),
        "mode": str(decision.mode),
        "snapshot": decision.snapshot,
        "tier": decision.tier,
        "policy": decision.policy,
        "rule": decision.rule,
        "code": decision.code,
    }


def decision_from_json(value: object) -> Decision:
    """Read what another engine decided, in the fields of the public object.

    Raises DecisionError.
    """
    names = ("decision", "policy_decision", "mode", "snapshot", "tier", "policy", "rule", "code")
    if not isinstance(value, dict) or set(value) != set(names) or not all(type(item) is str for item in value.values()):
        raise DecisionError
    try:
        return Decision(
            effect=Effect(value["decision"]),
            policy_effect=Effect(value["policy_decision"]),
            mode=Mode(value["mode"]),
            **{name: value[name] for name in names[3:]},
        )
    except ValueError as err:
        raise DecisionError from err


def name_of(policies: PolicySet) -> str:
    """The name that decisions give a policy tree that is no snapshot yet: the hash of its JSON."""
    return "sha256:" + hashlib.sha256(canonicaljson.dumps(policies.to_json())).hexdigest()
