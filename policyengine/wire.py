"""The JSON of a policy set, as snapshots carry it: written in one canonical order, read strictly.

The object has the fields of the YAML kinds; lists are sorted by name, so that equal sets have equal bytes. This
module reads no YAML and no files: a sidecar builds its index from it.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from mesh.clock import format_time
from mesh.problems import Invalid
from mesh.uncollected import uncollected
from policyengine import model
from policyengine.consistency import Checked, check
from policyengine.issuer import Issuer
from policyengine.issuerreading import issuer_to_json, read_issuer
from policyengine.keptrules import KeptRules, chunks_of, digest
from policyengine.reading import Path, Reader

SCHEMA = 1
T = TypeVar("T")


def policy_set_to_json(found: model.PolicySet) -> dict[str, object]:
    """The canonical plain JSON object of a policy set."""
    out: dict[str, object] = {
        "schema": SCHEMA,
        "services": [_service(item) for item in sorted(found.services, key=_by_name)],
        "policies": [_policy(item) for item in sorted(found.policies, key=_by_name)],
        "groups": [
            {**_head(item), "members": [str(member) for member in item.members]}
            for item in sorted(found.groups, key=_by_name)
        ],
        "invariants": [{**_head(item), "forbid": _grant(item)} for item in sorted(found.invariants, key=_by_name)],
        "exceptions": [
            {**_head(item), "rule": _grant(item), "until": format_time(item.until), "reason": item.reason}
            for item in sorted(found.exceptions, key=_by_name)
        ],
    }
    if found.rego:
        out["rego"] = [{"path": item.path, "source": item.source} for item in sorted(found.rego)]
    if found.issuers:
        out["issuers"] = [{**_head(item), **issuer_to_json(item)} for item in sorted(found.issuers, key=_by_name)]
    return out


_Named = model.Service | model.Policy | model.Group | model.Invariant | model.ExceptionGrant | Issuer


def _by_name(item: _Named) -> str:
    return item.name


def _head(item: _Named) -> dict[str, object]:
    return {"name": item.name, "owner": item.owner}


def _service(item: model.Service) -> dict[str, object]:
    out = _head(item)
    out["identities"] = [str(pattern) for pattern in item.identities]
    out["ports"] = [
        {"port": port.port, "protocol": port.protocol, **({"websocket": True} if port.websocket else {})}
        for port in item.ports
    ]
    out["mode"] = str(item.mode)
    if item.until is not None:
        out["until"] = format_time(item.until)
    if item.learn:
        out["learn"] = True
    if item.dataplane != "auto":
        out["dataplane"] = item.dataplane
    if item.path_case != "sensitive":
        out["path_case"] = item.path_case
    return out


def _policy(item: model.Policy) -> dict[str, object]:
    rules = [rule_to_json(rule) for rule in sorted(item.rules, key=lambda rule: rule.id)]
    return {**_head(item), "service": item.service, "tier": item.tier, "rules": rules}


def _grant(item: model.Invariant | model.ExceptionGrant) -> dict[str, object]:
    out: dict[str, object] = {"from": [str(caller) for caller in item.from_], "service": item.service}
    if (to := _operations(item.to)) is not None:
        out["to"] = to
    return out


def _operations(to: tuple[model.Operation, ...] | None) -> list[dict[str, object]] | None:
    """The list `to`; None for anything, as an entry without fields is too (a file cannot hold one)."""
    if to is None or model.Operation() in to:
        return None
    return [operation_to_json(operation) for operation in to]


def rule_to_json(rule: model.Rule) -> dict[str, object]:
    """A rule as it would stand in a file."""
    out: dict[str, object] = {"id": rule.id, "effect": str(rule.effect)}
    out["from"] = [str(caller) for caller in rule.from_]
    if (to := _operations(rule.to)) is not None:
        out["to"] = to
    if rule.when is not None:
        out["when"] = conditions_to_json(rule.when)
    if rule.unless is not None:
        unless: dict[str, object] = {}
        if rule.unless.from_ is not None:
            unless["from"] = [str(caller) for caller in rule.unless.from_]
        if rule.unless.when is not None:
            unless["when"] = conditions_to_json(rule.unless.when)
        out["unless"] = unless
    if rule.evidence is not None:
        out["evidence"] = json.loads(rule.evidence)
    return out


def operation_to_json(operation: model.Operation) -> dict[str, object]:
    """One entry of `to` as it would stand in a file."""
    out: dict[str, object] = {}
    if operation.ports is not None:
        out["ports"] = list(operation.ports)
    if operation.methods is not None:
        out["methods"] = list(operation.methods)
    if operation.hosts is not None:
        out["hosts"] = [str(host) for host in operation.hosts]
    if operation.paths is not None:
        out["paths"] = [str(path) for path in operation.paths]
    return out


def conditions_to_json(when: model.Conditions) -> dict[str, object]:
    """The mapping `when` as it would stand in a file."""
    out: dict[str, object] = {}
    if when.claims is not None:
        values = {name: list(allowed) for name, allowed in when.claims.values}
        out["claims"] = {"issuer": when.claims.issuer, **values}
    if when.headers is not None:
        out["headers"] = {name: list(allowed) for name, allowed in when.headers}
    if when.peer_ip is not None:
        out["peer_ip"] = [str(network) for network in when.peer_ip]
    if when.forwarded_ip is not None:
        out["forwarded_ip"] = [str(network) for network in when.forwarded_ip]
    if when.hours is not None:
        hours = when.hours
        out["hours"] = {"tz": hours.tz, "from": _time_of_day(hours.start), "to": _time_of_day(hours.end)}
    if when.rego is not None:
        out["rego"] = when.rego
    return out


def _time_of_day(moment: dt.time) -> str:
    return moment.isoformat("minutes" if moment.second == 0 else "seconds")


class Kept:
    """What was read, each object by the digest of how it was written, so that the next reading keeps what is the same.

    Not by equality, because to Python `1` and `true` are equal; and an object with findings is never kept. Of a policy
    that is not the same, the rules are (`policyengine.keptrules`).
    """

    def __init__(self) -> None:
        self._now: dict[bytes, object] = {}
        self._before: dict[bytes, object] = {}
        self._rules = KeptRules()
        self.checked = Checked()

    def begin(self) -> None:
        """Begin another reading: what it does not come upon is forgotten with the one after."""
        self._before, self._now = self._now, {}
        self._rules.begin()

    def take(self, kind: str, item: Mapping[str, object], read: Callable[[Rules | None], T | None]) -> T | None:
        """An object as it was read before, or as ``read`` reads it; None when it cannot be read.

        ``read`` is given the rules of a policy where all of them could be read, and says by None that it has findings.
        """
        rules, chunks = item.get("rules"), list[list[object]]()
        if kind == "policies" and isinstance(rules, list):
            chunks = chunks_of(rules)
            item = {**item, "rules": len(chunks)}
        forms = tuple(map(digest, chunks))
        form = digest({"kind": kind, "item": item, "is_cut": bool(chunks)}, b"".join(forms))
        found = self._before.get(form)
        if found is not None:
            self._rules.touch(forms)
        else:
            found = read(self._rules.rules(chunks, forms, _rule) if chunks else None)
        if found is not None:
            self._now[form] = found
        return cast("T | None", found)  # by its kind, which is part of the digest


Rules = tuple[model.Rule, ...]


def _rule(item: object) -> model.Rule | None:
    """A rule without findings."""
    reader = Reader()
    found = reader.rule(item, ())
    return None if reader.findings else found


def read_policy_set(obj: object, kept: Kept | None = None) -> model.PolicySet:
    """Read what `policy_set_to_json` writes; ``kept`` is what the same reader read before.

    1. Every object has its fields, no others, and no empty list or mapping (the strict reader).
    2. Names, ports and identities fit together, as the loader demands it of a tree.

    Raises Invalid (LM2001) for the first finding.
    """
    reader = Reader()
    kept = Kept() if kept is None else kept
    kept.begin()
    with uncollected():
        return _read_policy_set(obj, reader, kept)


def _read_policy_set(obj: object, reader: Reader, kept: Kept) -> model.PolicySet:
    # (1)
    kinds = ("services", "policies", "groups", "invariants", "exceptions")
    fields = reader.mapping(obj, (), ("schema", *kinds), ("rego", "issuers"))
    if fields is not None and (fields["schema"] != SCHEMA or isinstance(fields["schema"], bool)):
        reader.refuse(("schema",), "LM2009", field="schema", value=fields["schema"], known=str(SCHEMA), hint="")
    if fields is None or reader.findings:
        raise _malformed(reader)
    found = model.PolicySet(
        services=_read(reader, kept, fields, "services", reader.service),
        policies=_read(reader, kept, fields, "policies", reader.policy),
        groups=_read(reader, kept, fields, "groups", reader.group),
        invariants=_read(reader, kept, fields, "invariants", reader.invariant),
        exceptions=_read(reader, kept, fields, "exceptions", reader.exception),
        rego=reader.modules(fields["rego"], ("rego",)) if "rego" in fields else (),
        issuers=_read(reader, kept, fields, "issuers", functools.partial(read_issuer, reader))
        if "issuers" in fields
        else (),
    )
    # (2)
    reader.findings.extend(finding for finding in check(found, kept.checked) if finding.code not in WARNINGS)
    if reader.findings:
        raise _malformed(reader)
    return found


WARNINGS = frozenset({"LM2040"})
"""Findings of `policyengine.consistency` that do not refuse a policy set."""


def _read(
    reader: Reader,
    kept: Kept,
    fields: Mapping[str, object],
    kind: str,
    read: Callable[[str, str, object, Path], T | None],
) -> tuple[T, ...]:
    """All objects of one kind; here, and only here, the list may be empty: a tree may have no groups."""
    items = fields[kind]
    if not isinstance(items, list):
        reader.refuse((kind,), "LM2004", field=kind, expected="a list")
        return ()
    found: list[T] = []
    for place, item in enumerate(items):
        path: Path = (kind, place)
        if not isinstance(item, Mapping) or "name" not in item or "owner" not in item:
            reader.refuse(path, "LM2003", field="name and owner", owner=kind)
            continue
        value = kept.take(kind, item, functools.partial(_read_one, reader, item, path, read))
        if value is not None:
            found.append(value)
    return tuple(found)


def _read_one(
    reader: Reader,
    item: Mapping[str, object],
    path: Path,
    read: Callable[[str, str, object, Path], T | None],
    rules: Rules | None,
) -> T | None:
    """One object; None for one with findings."""
    before = len(reader.findings)
    name, owner = reader.name(item["name"], (*path, "name")), reader.text(item["owner"], (*path, "owner"))
    if name is None or owner is None:
        return None
    spec = {key: value for key, value in item.items() if key not in {"name", "owner"}}
    reader.known = rules
    found = read(name, owner, spec, path)
    return found if len(reader.findings) == before else None


def _malformed(reader: Reader) -> Invalid:
    finding = reader.findings[0]
    where = "/".join(str(part) for part in finding.path)
    return Invalid("LM2001", where=where or "the object", finding=finding.code)
