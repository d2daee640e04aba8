"""Consul's service-intentions from a policy set.

One intention controls a pair of services: the exact source's, else that of `*`; inside it the first permission that
fits decides. So per caller the rules are written in the order in which Limen decides (`policyengine.ir`): denies
before allows, tier by tier, and a deny of everything else behind them. Consul knows services, not ports, and one name
or all of them: what falls between is refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

from mesh.request import Effect
from mesh.spiffe import SpiffeId, SpiffePattern, TrustDomain
from policyengine.canonical import PathPattern
from policyengine.compile.allowed import Piece, boxes_of
from policyengine.compile.boxes import Box, Field
from policyengine.compile.export import OTHER_CASE, Export, Findings, Workloads, object_name, unsayable_tests
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.model import PolicySet, Port, Service

Row = dict[str, object]
_EVERYTHING = {"Action": "deny", "HTTP": {"PathPrefix": "/"}}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_TYPES = {
    "any": "[^/]+",
    "int": "[0-9]+",
    "decimal": r"-?[0-9]+(\.[0-9]+)?",
    "uuid": "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "hex": "[0-9A-Fa-f]+",
    "date": "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "ulid": "[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}",
    "token": "[A-Za-z0-9._~-]+",
}
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]*")


class _No(Exception):  # noqa: N818  not an error: the caller refuses or widens
    """What Consul cannot say, with the reason."""


def compile_consul(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """Config entries for every service with one port.

    1. EVERY service that can call has a name in Consul: the list of workloads', else its service's here.
    2. EVERY such caller, and everybody else, gets one source with the permissions that hold for it.
    3. Everybody who is not named is denied.
    """
    files: list[tuple[str, str]] = []
    every: dict[str, Findings] = {}
    # (1)
    names = _names(policies, domain, workloads)
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        called = [names.get(pattern.id) for pattern in service.identities if not pattern.subtree]
        if len(service.ports) != 1:
            findings.unmapped(service.name, "an intention holds on all ports of a service, so it has one", service.span)
            continue
        if len(called) != len(service.identities) or None in called:
            findings.unmapped(service.name, "a called workload has one identity and a name in Consul", service.span)
            continue
        form = normalise(policies, service)
        if service.mode == "observe":
            findings.stricter(service.name, "the service is observed: the target enforces at once", service.span)
        # (2), (3)
        sources = _sources(form, service.ports[0], names, domain, findings)
        if service.ports[0].protocol != "tcp":
            findings.needs(
                "its `service-defaults` say protocol http, http2 or grpc, and the mesh entry normalises paths"
            )
        for name in called:
            entry = {"Kind": "service-intentions", "Name": name, "Meta": {"limen": service.name}, "Sources": sources}
            files.append((f"{object_name(str(name))}.json", json.dumps(entry, indent=2) + "\n"))
    return Export(files=tuple(files), findings={name: item.all() for name, item in every.items()})


def _names(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> dict[SpiffeId, str]:
    """Names in Consul by identity: of the list, else of the one service that has the identity."""
    found = {}
    for service in policies.services:
        for pattern in service.identities:
            if not pattern.subtree and pattern.id.trust_domain == domain and _NAME.fullmatch(service.name):
                found[pattern.id] = service.name
    found |= {identity: item.consul for identity, item in workloads.items() if item.consul is not None}
    return found


def _sources(
    form: ServiceForm, port: Port, names: dict[SpiffeId, str], domain: TrustDomain, findings: Findings
) -> list[Row]:
    """The sources of an intention: every name that some rule speaks of, and `*`."""
    spoken = {
        pattern
        for grant in form.grants
        for named in (grant.callers, grant.unless_callers)
        if named is not None
        for pattern in named.patterns
    }
    for pattern in sorted(spoken):
        is_whole = pattern.subtree and pattern.id == domain.id
        known = [identity for identity in names if pattern.matches(identity)]
        if not known and not is_whole:
            findings.unmapped(pattern, "no service in Consul has this identity")
        elif pattern.subtree and not is_whole:
            findings.stricter(str(pattern), "only the services that have a name today are allowed there")
    rows: list[Row] = []
    # several identities under one name: what one of them may not, the name may not
    by_name: dict[str, list[SpiffeId]] = {}
    for identity, name in sorted(names.items()):
        by_name.setdefault(name, []).append(identity)
    others = _permissions(form, port, None, names, domain, findings)
    for name, identities in by_name.items():
        if not any(pattern.matches(identity) for pattern in spoken for identity in identities):
            continue
        found = [_permissions(form, port, identity, names, domain, findings) for identity in identities]
        if any(item != found[0] for item in found):
            findings.stricter(name, "its identities have different rules: the name is denied")
            found[0] = []
        if found[0] != others:
            rows.append(_source(name, found[0], port))
    rows.append(_source("*", others, port))
    return rows


def _source(name: str, permissions: list[Row], port: Port) -> Row:
    if not any(row["Action"] == "allow" for row in permissions):
        return {"Name": name, "Action": "deny"}
    if port.protocol == "tcp" or permissions[0] == {"Action": "allow", "HTTP": {"PathPrefix": "/"}}:
        return {"Name": name, "Action": "allow"}
    return {"Name": name, "Permissions": [*permissions, _EVERYTHING]}


def _permissions(
    form: ServiceForm,
    port: Port,
    identity: SpiffeId | None,
    names: dict[SpiffeId, str],
    domain: TrustDomain,
    findings: Findings,
) -> list[Row]:
    """What one caller may do, first fit first; ``identity`` None is every other service of the trust domain.

    1. Grants in the order in which they decide; a pass ends them: behind it nothing of its tier is allowed, and it is
       refused.
    2. An allow that cannot be said is refused; a deny that cannot becomes a larger one.
    """
    rows: list[Row] = []
    # (1)
    for grant in form.grants:
        for said in boxes_of(grant, port.port, port.protocol):
            box = _any_case(said, grant, form.service, findings)
            if not _speaks_of(box.callers, identity, domain, grant.effect, names):
                continue
            piece = Piece(
                port=port.port, protocol=port.protocol, box=box, policy=grant.policy, rule=grant.rule, span=grant.span
            )
            if grant.effect is Effect.PASS:
                findings.refuse(piece, "Consul has no pass: what it would leave to later rules is denied")
                rows += _denials(piece, findings, port)
                continue
            # (2)
            if grant.effect is Effect.DENY:
                rows += _denials(piece, findings, port)
            else:
                rows += _allows(piece, findings, port)
    return _until_final(rows)


def _any_case(box: Box, grant: Grant, service: Service, findings: Findings) -> Box:
    """A box about a service that ignores case, as Consul may say it: an allow for less, a deny for more."""
    if service.path_case == "sensitive" or box.paths.is_free:
        return box
    what = f"{grant.policy}/{grant.rule}"
    if grant.effect is Effect.ALLOW:
        findings.stricter(what, OTHER_CASE, grant.span)
        return box
    findings.stricter(what, "the service ignores case: it is denied on every path", grant.span)
    return dataclasses.replace(box, paths=Field())


def _until_final(rows: list[Row]) -> list[Row]:
    """The permissions up to the first that fits everything."""
    for place, row in enumerate(rows):
        if row["HTTP"] == {"PathPrefix": "/"}:
            return rows[: place + 1]
    return rows


def _speaks_of(
    callers: Field[SpiffePattern],
    identity: SpiffeId | None,
    domain: TrustDomain,
    effect: Effect,
    names: dict[SpiffeId, str],
) -> bool:
    """Whether a field of callers holds a caller; of everybody else an allow must hold all, a deny any.

    Those who have a name have a source of their own; whoever has none is among everybody else.
    """
    if identity is not None:
        inside = callers.inside is None or any(pattern.matches(identity) for pattern in callers.inside)
        return inside and not any(pattern.matches(identity) for pattern in callers.outside)
    whole = SpiffePattern(domain.id, subtree=True)

    def is_nameless(pattern: SpiffePattern) -> bool:
        return pattern.id.trust_domain == domain and (pattern.subtree or pattern.id not in names)

    holds_all = callers.inside is None or whole in callers.inside
    if effect is Effect.ALLOW:
        return holds_all and not any(is_nameless(pattern) for pattern in callers.outside)
    return holds_all or any(is_nameless(pattern) for pattern in callers.inside or ())


def _allows(piece: Piece, findings: Findings, port: Port) -> list[Row]:
    box = piece.box
    try:
        _refuse_unsayable(box)
        if port.protocol == "tcp":
            return [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]
        rows = _fits(box)
    except _No as err:
        findings.refuse(piece, str(err))
        return []
    return [{"Action": "allow", "HTTP": row} for row in rows]


def _denials(piece: Piece, findings: Findings, port: Port) -> list[Row]:
    box = piece.box
    try:
        _refuse_unsayable(box)
        rows: list[Row] = [{"PathPrefix": "/"}] if port.protocol == "tcp" else _fits(box)
    except _No as err:
        findings.stricter(f"{piece.policy}/{piece.rule}", f"the deny is everything there: {err}", piece.span)
        rows = [{"PathPrefix": "/"}]
    return [{"Action": "deny", "HTTP": row} for row in rows]


def _refuse_unsayable(box: Box) -> None:
    reason = unsayable_tests(box)
    if reason is not None:
        raise _No(reason)
    if not box.peers.is_free:
        raise _No("Consul asks for no address")
    if not box.hosts.is_free:
        raise _No("Consul has no hosts in permissions")
    if box.methods.outside or box.paths.outside:
        raise _No("Consul's permissions leave nothing out")


def _fits(box: Box) -> list[Row]:
    """The HTTP parts of permissions: one for each path and each combination of header values."""
    rows: list[Row] = [{"PathPrefix": "/"}]
    if box.paths.inside is not None:
        rows = [_path(path) for path in box.paths.inside]
    if box.methods.inside is not None:
        rows = [{**row, "Methods": list(box.methods.inside)} for row in rows]
    for name, field in box.headers:
        tests: list[Row] = [{"Name": name, "Exact": value} for value in field.inside or ()]
        cuts: list[Row] = [{"Name": name, "Exact": value, "Invert": True} for value in field.outside]
        choices: Sequence[list[Row]] = [[test] for test in tests] if tests else [list(cuts)]
        rows = [{**row, "Header": [*_list(row.get("Header")), *choice]} for row in rows for choice in choices]
    return rows


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _path(pattern: PathPattern) -> Row:
    """How Consul says a path: exactly, by a prefix that ends in a slash, or by an expression."""
    words = []
    for place in pattern.segments:
        if place.type == "literal" and _PLAIN.fullmatch(place.literal) is None:
            raise _No(f"the segment has more than one spelling: `{place.literal}`")
        words.append(place.literal if place.type == "literal" else "")
    if all(place.type == "literal" for place in pattern.segments):
        text = "/" + "/".join(words)
        if pattern.subtree:
            return {"PathPrefix": f"{text.rstrip('/')}/"}
        return {"PathExact": text}
    text = "".join(
        "/" + (re.escape(place.literal) if place.type == "literal" else _TYPES[place.type])
        for place in pattern.segments
    )
    return {"PathRegex": text + ("/.*" if pattern.subtree else "")}
