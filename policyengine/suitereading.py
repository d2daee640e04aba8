"""Reads `PolicyTest` documents with the strict reader: every field has its type, and all findings come at once.

A case's `given` is a request as `limen policy eval` reads it; what the cases of a document share stands once, in the
document's own `given`. This module decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mesh.request import Effect
from policyengine import model
from policyengine.reading import MISSING, NAME, RULE_ID, Path, Reader
from policyengine.suite import GIVEN_FIELDS, Case, Expected, Given, PolicyTest

EXPECT_FIELDS = ("policy_decision", "tier", "policy", "rule", "code")
_OUTCOMES = (Effect.ALLOW, Effect.DENY)


def read_test(reader: Reader, name: str, owner: str, value: object, path: Path) -> PolicyTest | None:
    """The spec of a PolicyTest; None when anything in it is refused."""
    fields = reader.mapping(value, path, ("cases",), ("given",))
    if fields is None:
        return None
    before = len(reader.findings)
    shared: Mapping[str, object] = {}
    if "given" in fields:
        found = reader.mapping(fields["given"], (*path, "given"), (), GIVEN_FIELDS)
        shared = found if found is not None else {}
        _given(reader, {"source": None, "service": "x", **shared}, (*path, "given"))
    # what is wrong with a shared field is told once, and not at every case
    usable = shared if len(reader.findings) == before else {}
    missing = {} if usable is shared else dict.fromkeys(("source", "service"), MISSING)
    cases = reader.items(
        fields["cases"], (*path, "cases"), lambda item, at: _case(reader, item, at, {**missing, **usable})
    )
    if len(reader.findings) > before or cases is None:
        return None
    return PolicyTest(name=name, owner=owner, cases=cases)


def _case(reader: Reader, value: object, path: Path, shared: Mapping[str, object]) -> Case | None:
    fields = reader.mapping(value, path, ("name", "given", "expect", "because"))
    if fields is None:
        return None
    before = len(reader.findings)
    name = reader.name(fields["name"], (*path, "name"), RULE_ID)
    at = (*path, "given")
    found = reader.mapping(fields["given"], at, (), GIVEN_FIELDS)
    given = None
    if found is not None:
        merged = {**shared, **found}
        for needed in ("source", "service"):
            if needed not in merged:
                reader.refuse(at, "LM2003", field=needed, owner="given")
        given = _given(reader, merged, at)
    expect = _expect(reader, fields["expect"], (*path, "expect"))
    because = reader.prose(fields["because"], (*path, "because"))
    if len(reader.findings) > before or name is None or given is None or expect is None or because is None:
        return None
    return Case(name=name, given=given, expect=expect, because=because)


def _given(reader: Reader, fields: Mapping[str, object], path: Path) -> Given | None:
    """The fields of a request, each with its type. Values are as they come over a wire: no rule of style holds."""
    before = len(reader.findings)
    given = {}
    for name, value in fields.items():
        if name in GIVEN_FIELDS and value is not MISSING:
            given[name] = _FIELDS.get(name, _wire)(reader, value, (*path, name))
    if len(reader.findings) > before or given.get("service") is None:
        return None
    # null is "left to the run" where there is something to leave to it
    return Given({name: value for name, value in given.items() if value is not None or name not in _LEFT})


_LEFT = frozenset({"port", "protocol", "time"})


def _wire(reader: Reader, value: object, path: Path) -> str | None:
    return None if value is None else reader.prose(value, path)


def _port(reader: Reader, value: object, path: Path) -> int | None:
    """A port as a request may come to: also one that no service could declare."""
    return 0 if type(value) is int and value == 0 else reader.port(value, path)


def _headers(reader: Reader, value: object, path: Path) -> tuple[tuple[str, str], ...]:
    """Headers in their order: a list of [name, value], or a mapping where each stands once."""
    if isinstance(value, Mapping):
        read = {str(name): reader.prose(item, (*path, str(name))) for name, item in value.items()}
        return tuple((name, item) for name, item in read.items() if item is not None)
    pairs = reader.items(value, path, lambda item, at: _pair(reader, item, at))
    return pairs or ()


def _pair(reader: Reader, value: object, path: Path) -> tuple[str, str] | None:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(item, str) for item in value):
        reader.refuse(path, "LM2004", field="headers", expected="a list of [name, value] or a mapping")
        return None
    return value[0], value[1]


def _claims(reader: Reader, value: object, path: Path) -> Mapping[str, object] | None:
    """The claims of a verified token, whatever they are; null is no token."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        reader.refuse(path, "LM2004", field="claims", expected="a mapping or null")
        return None
    return value


def _expect(reader: Reader, value: object, path: Path) -> Expected | None:
    """`allow`, `deny`, or a mapping with the decision and more."""
    if not isinstance(value, Mapping):
        decision = reader.choice(value, path, _OUTCOMES)
        return None if decision is None else Expected(decision=Effect(decision))
    fields = reader.mapping(value, path, ("decision",), EXPECT_FIELDS)
    if fields is None:
        return None
    before = len(reader.findings)
    decision = reader.choice(fields["decision"], (*path, "decision"), _OUTCOMES)
    second = None
    if "policy_decision" in fields:
        second = reader.choice(fields["policy_decision"], (*path, "policy_decision"), _OUTCOMES)
    tier = reader.choice(fields["tier"], (*path, "tier"), model.TIERS) if "tier" in fields else None
    policy = reader.name(fields["policy"], (*path, "policy"), NAME) if "policy" in fields else None
    rule = reader.name(fields["rule"], (*path, "rule"), RULE_ID) if "rule" in fields else None
    code = reader.text(fields["code"], (*path, "code")) if "code" in fields else None
    if len(reader.findings) > before or decision is None:
        return None
    return Expected(
        decision=Effect(decision),
        policy_decision=Effect(second) if second is not None else None,
        tier=tier,
        policy=policy,
        rule=rule,
        code=code,
    )


def _protocol(reader: Reader, value: object, path: Path) -> str | None:
    return reader.choice(value, path, model.PROTOCOLS)


def _unknown(reader: Reader, value: object, path: Path) -> frozenset[str]:
    return frozenset(reader.items(value, path, reader.prose) or ())


_FIELDS: dict[str, Callable[[Reader, Any, Path], object]] = {
    "port": _port,
    "protocol": _protocol,
    "headers": _headers,
    "claims": _claims,
    "time": lambda reader, value, path: reader.moment(value, path),
    "unknown": _unknown,
}
"""How the fields of a request are read that are more than text."""
