"""The whole policy set as a Rego program: one module that never changes, and data that is the policies.

A real OPA answers `data.limen.authz.decision` for an input document (`policyengine.inputdoc`) exactly as
`policyengine.decide` answers the request it was made from. The data is an index, as `decide` has one: by
caller, port, method, host and path, so that a decision does not read all rules. This module evaluates nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib.resources
from collections.abc import Iterable, Mapping

from mesh.request import Effect, Mode
from policyengine import model
from policyengine.canonical import SEGMENT_TYPES, PathPattern, PathSegment
from policyengine.customrules import rules_of
from policyengine.inputdoc import VERSION, nanoseconds, network_keys
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.regocheck import package_of

SCHEMA = 1
PACKAGE = "limen"
DECISION = "data.limen.authz.decision"
DECISIONS = "data.limen.batch.decisions"
DATA_PATH = ("limen", "release")
MODULE = "limen/authz.rego"
BATCH_MODULE = "limen/batch.rego"
LOG_MODULE = "limen/log.rego"
FIXED_MODULES = {MODULE: "authz.rego", BATCH_MODULE: "batch.rego", LOG_MODULE: "log.rego"}
CUSTOM_MODULE = "limen/custom.rego"
RULES_FOLDER = "limen/rules"
_ANY_PORT, _ANY_METHOD, _UNKNOWN_METHOD = "0", "", "?"  # `?` is no token character, so no method
_TIER_PLACE = {tier: place for place, tier in enumerate(model.TIERS)}

Json = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A compiled policy set. ``modules`` are by their path in a bundle, ``release`` is `data.limen.release`."""

    snapshot: str
    modules: Mapping[str, str]
    release: Json
    roots: tuple[str, ...]

    @property
    def data(self) -> Json:
        """The data document as a bundle holds it."""
        return {DATA_PATH[0]: {DATA_PATH[1]: self.release}}

    def manifest(self) -> Json:
        """The bundle's `.manifest`: which release it is, and what part of OPA's documents is ours."""
        return {
            "revision": self.snapshot,
            "roots": list(self.roots),
            "rego_version": 1,
            "metadata": {"limen": {"schema": SCHEMA, "input_version": VERSION}},
        }


def compile_rego(policies: model.PolicySet, snapshot: str) -> Program:
    """Compile a policy set; ``snapshot`` is the name that decisions carry.

    1. Services are found by name or by one of their identities.
    2. Each service has its grants in the order of rank, and the index that finds them.
    """
    custom = rules_of(policies)
    modules = {name: _module_text(file) for name, file in FIXED_MODULES.items()}
    if custom:
        modules[CUSTOM_MODULE] = _custom_module(custom)
        modules |= {f"{RULES_FOLDER}/{module.path}": module.source for module in policies.rego}
    # (1)
    exact: Json = {}
    below: Json = {}
    for service in policies.services:
        for pattern in service.identities:
            # of two services that claim one identity the first has it, as in `PolicySet.service_for`
            (below if pattern.subtree else exact).setdefault(str(pattern.id), service.name)
    release: Json = {
        "schema": SCHEMA,
        "snapshot": snapshot,
        "names": {service.name: True for service in policies.services},
        "identities": {"exact": exact, "below": below},
        # (2)
        "services": {service.name: _service(normalise(policies, service)) for service in policies.services},
    }
    return Program(
        snapshot=snapshot,
        modules=modules,
        release=release,
        roots=(PACKAGE, *_packages(policies)) if custom else (PACKAGE,),
    )


def _custom_module(custom: Iterable[str]) -> str:
    """The module by which the program asks custom rules: a rule's name is data, its value is not."""
    lines = ["package limen.custom", "", *(f'value["{name}"] := {name}' for name in custom)]
    return "\n".join(lines) + "\n"


def _packages(policies: model.PolicySet) -> list[str]:
    """The packages of custom rules as bundle roots, without those inside others."""
    paths = sorted({(package_of(module.source) or "").replace(".", "/") for module in policies.rego} - {""})
    found: list[str] = []
    for path in paths:
        if not any(path.startswith(f"{outer}/") for outer in found):
            found.append(path)
    return found


@functools.cache
def _module_text(name: str) -> str:
    """A module that is the same for every policy set."""
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def _service(form: ServiceForm) -> Json:
    """One service's part of the data."""
    service = form.service
    index = _Index()
    for grant in form.grants:
        index.insert(grant)
    out: Json = {
        "ports": {str(port): protocol for port, protocol in form.protocols.items()},
        "headers": dict.fromkeys(sorted(form.headers), True),
        "spellings": _spellings(form.headers),
        "grants": {_key(grant): _grant(grant) for grant in form.grants},
        **index.to_json(),
    }
    if service.path_case == "insensitive":
        out["ignores_case"] = True
    if service.mode is Mode.OBSERVE and service.until is not None:
        out["observe_until"] = nanoseconds(service.until)
    return out


def _spellings(headers: Iterable[str]) -> Json:
    """The headers that policies read, by their name with `-` for `_`."""
    found: dict[str, list[str]] = {}
    for name in sorted(headers):
        found.setdefault(name.replace("_", "-"), []).append(name)
    return dict(found)


class _Index:
    """What finds the grants of a service. Places and tables are numbered: data is read by the leaf.

    The numbers are keys of objects, not places in lists: where OPA knows an object already it walks on in it, but it
    converts a list as a whole each time that it reads one element.
    """

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, dict[str, Json]]] = {}
        self._places: dict[str, _Place] = {}
        self._any: str | None = None
        self._nobody: str | None = None
        self._exact: dict[str, str] = {}
        self._below: dict[str, str] = {}

    def insert(self, grant: Grant) -> None:
        """Put a grant under every class of callers that it speaks of; grants come in the order of rank."""
        denies = grant.effect is not Effect.ALLOW
        tables: list[str] = []
        if grant.callers.is_any or (grant.callers.incomplete and denies):
            self._any = self._table() if self._any is None else self._any
            tables.append(self._any)
        else:
            for pattern in grant.callers.patterns:
                by_id = self._below if pattern.subtree else self._exact
                key = str(pattern.id)
                if key not in by_id:
                    by_id[key] = self._table()
                tables.append(by_id[key])
        if grant.effect is Effect.DENY:
            self._nobody = self._table() if self._nobody is None else self._nobody
            tables.append(self._nobody)
        for table in tables:
            for operation in grant.operations:
                self._insert(self._tables[table], grant, operation, denies=denies)

    def _table(self) -> str:
        number = str(len(self._tables))
        self._tables[number] = {}
        return number

    def _insert(
        self, table: dict[str, dict[str, Json]], grant: Grant, operation: model.Operation, *, denies: bool
    ) -> None:
        methods: tuple[str, ...] = operation.methods or (_ANY_METHOD,)
        if denies and operation.methods is not None:
            methods = (*methods, _UNKNOWN_METHOD)
        ports = (_ANY_PORT,) if operation.ports is None else tuple(str(port) for port in operation.ports)
        for port in ports:
            for method in methods:
                hosts = table.setdefault(port, {}).setdefault(method, {})
                for place in self._hosts(hosts, operation, denies=denies):
                    self._places[place].insert(grant, operation.paths, denies=denies)

    def _hosts(self, hosts: Json, operation: model.Operation, *, denies: bool) -> list[str]:
        """The places where requests to an operation's hosts will look."""
        if operation.hosts is None:
            return [self._place(hosts, "always")]
        found = []
        for pattern in operation.hosts:
            by_name = hosts.setdefault("wildcard" if pattern.wildcard else "exact", {})
            assert isinstance(by_name, dict)
            found.append(self._place(by_name, pattern.name))
        if denies:
            found.append(self._place(hosts, "unknown"))
        return list(dict.fromkeys(found))

    def _place(self, parent: Json, key: str) -> str:
        place = parent.get(key)
        if place is None:
            place = parent[key] = str(len(self._places))
            self._places[place] = _Place()
        assert isinstance(place, str)
        return place

    def to_json(self) -> Json:
        """The index as data."""
        callers: Json = {"exact": dict(self._exact), "below": dict(self._below)}
        if self._any is not None:
            callers["any"] = self._any
        if self._nobody is not None:
            callers["nobody"] = self._nobody
        places = {number: place.to_json() for number, place in self._places.items()}
        return {"callers": callers, "tables": self._tables, "places": places}


class _Place:
    """The ranks of the grants at one caller, port, method and host, by path."""

    def __init__(self) -> None:
        self._always: list[Grant] = []
        self._unknown: list[Grant] = []
        self._exact: dict[str, list[Grant]] = {}
        self._below: dict[str, list[Grant]] = {}
        self._templates: dict[str, dict[PathPattern, list[Grant]]] = {}

    def insert(self, grant: Grant, patterns: tuple[PathPattern, ...] | None, *, denies: bool) -> None:
        """Add a grant for ANY of the patterns, or for every path; a deny or pass for an unknown path too."""
        if patterns is None:
            _append(self._always, grant)
            return
        for pattern in patterns:
            literals = _literal_prefix(pattern)
            key = "/".join(literals)
            if len(literals) < len(pattern.segments):
                leaf = self._templates.setdefault(key, {}).setdefault(pattern, [])
            else:
                leaf = (self._below if pattern.subtree else self._exact).setdefault(key, [])
            _append(leaf, grant)
        if denies:
            _append(self._unknown, grant)

    def to_json(self) -> Json:
        """The place as data; what is empty is left out."""
        out: Json = {}
        if self._always:
            out["always"] = _ranks(self._always)
        if self._unknown:
            out["unknown"] = _ranks(self._unknown)
        if self._exact:
            out["exact"] = {key: _ranks(leaf) for key, leaf in self._exact.items()}
        if self._below:
            out["below"] = {key: _ranks(leaf) for key, leaf in self._below.items()}
        if self._templates:
            out["templates"] = {
                key: [
                    {
                        "segments": [_segment(item) for item in pattern.segments],
                        "subtree": pattern.subtree,
                        "grants": _ranks(leaf),
                    }
                    for pattern, leaf in templates.items()
                ]
                for key, templates in self._templates.items()
            }
        return out


def _append(leaf: list[Grant], grant: Grant) -> None:
    """Add a grant unless the one before it always decides in its tier: nothing behind that could."""
    if leaf and (leaf[-1] is grant or (leaf[-1].tier == grant.tier and not leaf[-1].is_conditional)):
        return
    leaf.append(grant)


def _ranks(leaf: Iterable[Grant]) -> list[str]:
    return [_key(grant) for grant in leaf]


def _key(grant: Grant) -> str:
    """A rank as text that sorts as ranks do: an engine in process has a `min` that compares numbers as text."""
    return f"{grant.rank:07}"


def _literal_prefix(pattern: PathPattern) -> list[str]:
    """The literal segments before the first that is none."""
    found: list[str] = []
    for segment in pattern.segments:
        if segment.type != "literal":
            break
        found.append(segment.literal)
    return found


def _segment(segment: PathSegment) -> Json:
    if segment.type == "literal":
        return {"literal": segment.literal}
    if segment.type == "any":
        return {"any": True}
    return {"pattern": f"^(?:{SEGMENT_TYPES[segment.type].pattern})$"}


def _grant(grant: Grant) -> Json:
    """A grant as data: what decides with it, and its conditions."""
    out: Json = {
        "tier": _TIER_PLACE[grant.tier],
        "tier_name": grant.tier,
        "effect": str(grant.effect),
        "policy": grant.policy,
        "rule": grant.rule,
    }
    if grant.until is not None:
        out["until"] = nanoseconds(grant.until)
    if grant.when is not None:
        out["when"] = _conditions(grant.when)
    unless: Json = {}
    if grant.unless_callers is not None:
        unless["from"] = _principals(grant.unless_callers)
    if grant.unless_when is not None:
        unless["when"] = _conditions(grant.unless_when)
    if unless:
        out["unless"] = unless
    return out


def _principals(callers: model.Principals) -> Json:
    return {
        "any": callers.is_any,
        "incomplete": callers.incomplete,
        "exact": {str(pattern.id): True for pattern in callers.patterns if not pattern.subtree},
        "below": {str(pattern.id): True for pattern in callers.patterns if pattern.subtree},
    }


def _conditions(when: model.Conditions) -> Json:
    out: Json = {}
    if when.claims is not None:
        values = {name: list(allowed) for name, allowed in when.claims.values}
        out["claims"] = {"issuer": when.claims.issuer, "values": values}
    if when.headers is not None:
        out["headers"] = {name: list(allowed) for name, allowed in when.headers}
    if when.peer_ip is not None:
        out["peer_ip"] = [list(network_keys(network)) for network in when.peer_ip]
    if when.forwarded_ip is not None:
        out["forwarded_ip"] = [list(network_keys(network)) for network in when.forwarded_ip]
    if when.hours is not None:
        out["hours"] = {"tz": when.hours.tz, "start": _second(when.hours.start), "end": _second(when.hours.end)}
    if when.rego is not None:
        out["rego"] = when.rego
    return out


def _second(moment: dt.time) -> int:
    return (moment.hour * 60 + moment.minute) * 60 + moment.second
