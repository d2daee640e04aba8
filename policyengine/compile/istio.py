"""Istio's AuthorizationPolicy from a policy set, with PeerAuthentication and RequestAuthentication beside it.

Per called workload: an ALLOW with a rule for each piece of what Limen allows, a DENY for each deny that cuts them all,
strict mTLS, and a namespace that denies what no policy allows. Every rule names its ports, so that Istio's dropping of
HTTP fields on TCP ports never comes into play. A deny that Istio cannot say to the letter becomes a larger one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mesh.spiffe import SpiffePattern, TrustDomain
from policyengine.canonical import HostPattern, PathPattern
from policyengine.compile.allowed import Piece
from policyengine.compile.boxes import Field
from policyengine.compile.export import (
    EXPERIMENTAL,
    Export,
    Findings,
    Workloads,
    allowed_for,
    by_ports,
    documents,
    homes_of,
    object_name,
    unsayable_tests,
)
from policyengine.compile.kubernetes import labels_of
from policyengine.model import PolicySet

Row = dict[str, object]
_API = "security.istio.io/v1"
_CLAIM = re.compile(r"[A-Za-z0-9_.:/-]+")
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()+,=:@-]*")
HYGIENE = (
    "set `meshConfig.pathNormalization.normalization: DECODE_AND_MERGE_SLASHES`; what Limen refuses as ambiguous "
    "(`;` in a path, a policy header given twice) Istio decides by its own reading"
)


class _No(Exception):  # noqa: N818  not an error: the caller refuses the piece
    """What Istio cannot say, with the reason."""


def compile_istio(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """Istio's policies for every service whose workloads are known by labels.

    1. A namespace with a called workload denies what nothing allows: a label that fits nothing opens nothing.
    2. EVERY piece of what Limen allows becomes a rule, or is refused.
    3. EVERY deny becomes a rule that stops at least what Limen stops.
    """
    files: list[tuple[str, str]] = []
    namespaces: set[str] = set()
    every: dict[str, Findings] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        allowed = allowed_for(policies, service, findings, with_denies=True)
        # (2)
        allows = [rule for piece, ports in by_ports(allowed.allows) if (rule := _allow(piece, ports, findings))]
        # (3)
        denies = [_deny(piece, ports, findings) for piece, ports in by_ports(allowed.denies)]
        issuers = sorted(_issuers(allowed.allows + allowed.denies))
        if any(piece.protocol != "tcp" for piece in (*allowed.allows, *allowed.denies)):
            findings.needs(HYGIENE)
        if issuers:
            findings.needs("a RequestAuthentication names each issuer: add its `audiences` and `jwksUri`")
        rows: list[Row] = []
        for identity, place in homes_of(service, domain, findings):
            labels = labels_of(identity, workloads, findings)
            if labels is None:
                continue
            namespaces.add(str(place.namespace))
            several = (service.name,) if len(service.identities) == 1 else (service.name, str(place.account))
            rows += _workload(several, str(place.namespace), labels, issuers, allows, denies)
        if rows:
            heading = f"What Limen says about `{service.name}`, for Istio. {EXPERIMENTAL}"
            files.append((f"{object_name(service.name)}.yaml", documents(rows, heading, findings.all())))
    # (1)
    rows = [_row("AuthorizationPolicy", "limen-default-deny", name, {}) for name in sorted(namespaces)]
    if rows:
        files.append(("limen-default-deny.yaml", documents(rows, "What nothing allows is denied.")))
    return Export(files=tuple(files), findings={name: item.all() for name, item in every.items()})


def _workload(
    names: tuple[str, ...],
    namespace: str,
    labels: dict[str, str],
    issuers: Sequence[str],
    allows: Sequence[Row],
    denies: Sequence[Row],
) -> list[Row]:
    """The objects of one workload."""
    selector: Row = {"selector": {"matchLabels": labels}}
    rows = [_row("PeerAuthentication", object_name(*names), namespace, {**selector, "mtls": {"mode": "STRICT"}})]
    if issuers:
        jwt = [{"issuer": issuer} for issuer in issuers]
        rows.append(_row("RequestAuthentication", object_name(*names), namespace, {**selector, "jwtRules": jwt}))
    for action, rules in (("DENY", denies), ("ALLOW", allows)):
        if rules:
            spec: Row = {**selector, "action": action, "rules": list(rules)}
            rows.append(_row("AuthorizationPolicy", object_name(*names, action.lower()), namespace, spec))
    return rows


def _row(kind: str, name: str, namespace: str, spec: Row) -> Row:
    return {"apiVersion": _API, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _issuers(pieces: Sequence[Piece]) -> set[str]:
    tests = [test for piece in pieces for test in piece.box.tests]
    return {str(value) for test in tests if test.kind == "claims" and test.key == "iss" for value in test.values}


def _allow(piece: Piece, ports: tuple[int, ...], findings: Findings) -> Row | None:
    """An ALLOW rule that lets through no more than the piece; None when it is refused."""
    box = piece.box
    try:
        source: Row = {}
        source["principals"] = (
            ["*"] if box.callers.inside is None else [_principal(item) for item in box.callers.inside]
        )
        if box.callers.outside:
            source["notPrincipals"] = [_principal(item) for item in box.callers.outside]
        _addresses(piece, source)
        operation: Row = {"ports": [str(port) for port in ports]}
        _words(operation, "ethods", box.methods)
        if box.hosts.inside is not None:
            operation["hosts"] = [name for host in box.hosts.inside for name in _allowed_hosts(host, ports)]
        if box.hosts.outside:
            operation["notHosts"] = [name for host in box.hosts.outside for name in _denied_hosts(host)]
        if box.paths.inside is not None:
            operation["paths"] = [_path(path) for path in box.paths.inside]
        if box.paths.outside:
            operation["notPaths"] = [_path(path) for path in box.paths.outside]
        return _assembled(source, operation, _when(piece))
    except _No as err:
        findings.refuse(piece, str(err))
        return None


def _deny(piece: Piece, ports: tuple[int, ...], findings: Findings) -> Row:
    """A DENY rule that stops at least the piece: a field that cannot be said is left out, which stops more."""
    box = piece.box
    source: Row = {}
    if box.callers.inside is not None:
        source["principals"] = [_principal(item) for item in box.callers.inside]
    if box.callers.outside:
        source["notPrincipals"] = [_principal(item) for item in box.callers.outside]
    _addresses(piece, source)
    operation: Row = {"ports": [str(port) for port in ports]}
    _words(operation, "ethods", box.methods)
    fields: list[tuple[str, Callable[[], object]]] = []
    if box.hosts.inside is not None:
        hosts = box.hosts.inside
        fields.append(("hosts", lambda: [name for host in hosts for name in _denied_hosts(host)]))
    if box.hosts.outside:
        fields.append(
            ("notHosts", lambda: [name for host in box.hosts.outside for name in _allowed_hosts(host, ports)])
        )
    if box.paths.inside is not None:
        fields.append(("paths", lambda: list(map(_path, box.paths.inside or ()))))
    if box.paths.outside:
        fields.append(("notPaths", lambda: list(map(_path, box.paths.outside))))
    said: Row = {}
    for name, say in (*fields, ("when", lambda: _when(piece))):
        try:
            said[name] = say()
        except _No as err:
            reason = f"the deny is larger there: {err}"
            findings.stricter(f"{piece.policy}/{piece.rule}", reason, piece.span)
    when = said.pop("when", [])
    return _assembled(source, {**operation, **said}, when if isinstance(when, list) else [])


def _assembled(source: Row, operation: Row, when: list[Row]) -> Row:
    rule: Row = {"from": [{"source": source}]} if source else {}
    rule["to"] = [{"operation": operation}]
    if when:
        rule["when"] = when
    return rule


def _principal(pattern: SpiffePattern) -> str:
    """A principal: the ID without its scheme; a prefix at a segment boundary ends in `/*`."""
    text = str(pattern.id).removeprefix("spiffe://")
    return f"{text}/*" if pattern.subtree else text


def _addresses(piece: Piece, source: Row) -> None:
    peers = piece.box.peers
    if peers.inside is not None:
        source["ipBlocks"] = [str(network) for network in peers.inside]
    if peers.outside:
        source["notIpBlocks"] = [str(network) for network in peers.outside]


def _words(operation: Row, name: str, field: Field[str]) -> None:
    if field.inside is not None:
        operation[f"m{name}"] = list(field.inside)
    if field.outside:
        operation[f"notM{name}"] = list(field.outside)


def _allowed_hosts(host: HostPattern, ports: tuple[int, ...]) -> list[str]:
    if host.wildcard:
        raise _No("`*.` stands for one label with Limen and for several with Istio")
    return [host.name, *(f"{host.name}:{port}" for port in ports)]


def _denied_hosts(host: HostPattern) -> list[str]:
    """Every spelling that Limen reads as the host."""
    if host.wildcard:
        raise _No("`*.` stands for one label with Limen, and Istio has no `*` at both ends")
    return [host.name, f"{host.name}:*", f"{host.name}.", f"{host.name}.:*"]


def _path(pattern: PathPattern) -> str:
    """A path that Istio matches exactly as Limen does."""
    words = []
    is_template = any(place.type != "literal" for place in pattern.segments)
    for place in pattern.segments:
        if place.type == "literal":
            if _PLAIN.fullmatch(place.literal) is None:
                raise _No(f"Istio compares encoded bytes, and `*` is a wildcard: `{place.literal}`")
            words.append(place.literal)
        elif place.type == "any":
            words.append("{*}")
        else:
            raise _No(f"Istio has no typed segments: `{{{place.type}}}`")
    text = "/" + "/".join(words)
    if not pattern.subtree:
        return text
    end = "{**}" if is_template else "*"
    return f"{text}/{end}" if words else "/*"


def _when(piece: Piece) -> list[Row]:
    """The conditions of a piece."""
    reason = unsayable_tests(piece.box, "claims")
    if reason is not None:
        raise _No(reason)
    rows: list[Row] = []
    for name, field in piece.box.headers:
        row: Row = {"key": f"request.headers[{name}]"}
        if field.inside is not None:
            row["values"] = [_value(value) for value in field.inside]
        if field.outside:
            row["notValues"] = [_value(value) for value in field.outside]
        rows.append(row)
    for test in sorted(piece.box.tests):
        if _CLAIM.fullmatch(test.key) is None:
            raise _No(f"Istio cannot name the claim `{test.key}`")
        values = [_value(value) for value in test.values]
        rows.append({"key": f"request.auth.claims[{test.key}]", "values" if test.is_positive else "notValues": values})
    return rows


def _value(value: str | int | bool) -> str:  # noqa: FBT001  a claim's value
    if not isinstance(value, str):
        raise _No(f"Istio compares claims that are text: `{value}`")
    if value.startswith("*") or value.endswith("*") or not value:
        raise _No(f"`*` is a wildcard to Istio, and an empty value none: `{value}`")
    return value
