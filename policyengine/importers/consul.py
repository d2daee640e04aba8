"""Consul's service-intentions as a policy tree, from config entries (JSON) and from their Kubernetes resources.

One intention controls a pair: the called service's own before those of `*`, and in it the exact source before `*`. An
intention is an action, or permissions of which the first that fits decides; what fits none is denied, as it is with
`default_policy = "deny"`. Names become `spiffe://TD/ns/NS/dc/DC/svc/NAME`, the identities that Consul issues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mesh.problems import Diagnostic
from mesh.request import Protocol
from mesh.spiffe import SpiffeId, SpiffeIdError, SpiffePattern, TrustDomain
from mesh.yamlio import Node
from policyengine import model
from policyengine.canonical import PathPattern
from policyengine.compile.boxes import CALLERS, PATHS, WORDS, Box, Field, Unsayable, field_of, meet, subtract
from policyengine.importers import istiofields
from policyengine.importers.documents import (
    ASSUMED,
    NOT_READ,
    REFUSED,
    STRICTER,
    Document,
    Malformed,
    read_documents,
)
from policyengine.importers.imported import Import
from policyengine.importers.istiofields import CannotSay, Meaning, Reading
from policyengine.importers.trees import Said, policies_of, service_of, token_test
from policyengine.importers.workloads import DEFAULT_PORT

KINDS = (
    "service-intentions",
    "service-defaults",
    "jwt-provider",
    "ServiceIntentions",
    "ServiceDefaults",
    "JWTProvider",
)
_PROTOCOLS: Mapping[str, Protocol] = {"http": "http", "http2": "http", "grpc": "grpc", "tcp": "tcp"}
_ENTRY = (
    "Kind", "Name", "Namespace", "Partition", "Meta", "Sources", "JWT", "Destination", "CreateIndex", "ModifyIndex",
)  # fmt: skip
_SOURCE = (
    "Name", "Namespace", "Partition", "Peer", "SamenessGroup", "Action", "Permissions", "Description", "Type",
    "Precedence", "LegacyID", "LegacyMeta", "LegacyCreateTime", "LegacyUpdateTime",
)  # fmt: skip


@dataclasses.dataclass(slots=True, eq=False)
class _Intention:
    """What controls one source of one called service; ``source`` and ``called`` may be `*`."""

    document: Document
    called: str
    source: str
    namespace: str
    node: Node
    jwt: Node | None


@dataclasses.dataclass(slots=True, eq=False)
class _World:
    domain: TrustDomain
    datacenter: str
    protocols: dict[str, Protocol]
    issuers: dict[str, str]

    def identity(self, document: Document, name: str, namespace: str) -> SpiffePattern:
        """The identity that Consul issues to a service."""
        try:
            found = SpiffeId.from_segments(self.domain, "ns", namespace, "dc", self.datacenter, "svc", name)
        except SpiffeIdError as err:
            raise document.malformed("name", f"part of a SPIFFE ID: {err}") from None
        return SpiffePattern(found, subtree=False)


def import_consul(files: Sequence[tuple[str, str]], domain: TrustDomain, datacenter: str = "dc1") -> Import:
    """Translate documents, given by name and text.

    1. EVERY service that is called, or calls, by name is a service; protocols are those of service-defaults.
    2. Per pair the most exact intention decides.
    """
    documents, unreadable = read_documents(files)
    world = _World(domain, datacenter, {}, {})
    intentions: list[_Intention] = []
    is_broken = False
    for document in documents:
        try:
            _read(document, world, intentions)
        except Malformed:
            is_broken = True
    # (1)
    names = {item.called: item.document for item in intentions}
    names |= {item.source: item.document for item in intentions if item.source not in names}
    names.pop("*", None)
    found = [_translate(name, names[name], intentions, world) for name in sorted(names)]
    # what a broken document would have denied is not known: nothing is allowed
    policies = () if is_broken else tuple(item for _, listed in found for item in listed)
    made = model.PolicySet(services=tuple(service for service, _ in found), policies=policies)
    return Import(policies=made, documents=tuple(documents), unreadable=tuple(unreadable))


def _field(document: Document, node: Node, name: str) -> Node | None:
    """A field by its name in a config entry (`PathExact`) or in a resource (`pathExact`)."""
    lower = name.lower() if name.isupper() else name[0].lower() + name[1:]
    return document.child(node, name) or document.child(node, lower)


def _text(document: Document, node: Node, name: str) -> str:
    found = _field(document, node, name)
    if found is None:
        return ""
    if found.kind not in {"text", "int", "bool"}:
        raise document.malformed(name, "a text", found)
    return str(found.scalar)


def _items(document: Document, node: Node, name: str) -> tuple[Node, ...]:
    found = _field(document, node, name)
    if found is None:
        return ()
    if found.kind != "list":
        raise document.malformed(name, "a list", found)
    return found.items


def _only(document: Document, node: Node, names: Sequence[str]) -> None:
    lower = [name.lower() if name.isupper() else name[0].lower() + name[1:] for name in names]
    document.only(node, (*names, *lower))


def _read(document: Document, world: _World, intentions: list[_Intention]) -> None:
    """Take one document in."""
    node = document.node
    is_resource = document.child(node, "spec") is not None if node.kind == "map" else False
    spec = document.child(node, "spec") if is_resource else node
    if document.kind not in KINDS or spec is None:
        facts: dict[str, object] = {"kind": document.kind, "name": document.name, "known": ", ".join(KINDS)}
        document.findings.append(Diagnostic(code=NOT_READ, span=node.span, facts=facts))
    elif document.kind.lower().replace("-", "") == "servicedefaults":
        protocol = _text(document, spec, "Protocol")
        if protocol in _PROTOCOLS:
            world.protocols[document.name] = _PROTOCOLS[protocol]
    elif document.kind.lower().replace("-", "") == "jwtprovider":
        issuer = _text(document, spec, "Issuer")
        if issuer:
            world.issuers[document.name] = issuer
            document.note(ASSUMED, f"issuer `{issuer}`", "its keys and audiences are given to the verifier")
    else:
        _read_intentions(document, spec, intentions, is_resource=is_resource)


def _read_intentions(document: Document, spec: Node, intentions: list[_Intention], *, is_resource: bool) -> None:
    called = document.name
    if is_resource:
        destination = _field(document, spec, "Destination")
        if destination is None:
            raise document.malformed("destination", "the called service")
        called = _text(document, destination, "Name")
    _only(document, spec, _ENTRY)
    jwt = _field(document, spec, "JWT")
    for source in _items(document, spec, "Sources"):
        _only(document, source, _SOURCE)
        name = _text(document, source, "Name")
        if not name:
            raise document.malformed("Name", "the calling service, or `*`", source)
        for foreign in ("Peer", "SamenessGroup"):
            if _text(document, source, foreign):
                document.note(
                    REFUSED, f"source `{name}` of a {foreign}", "its identities are another cluster's", source
                )
                break
        else:
            namespace = _text(document, source, "Namespace") or "default"
            intentions.append(_Intention(document, called, name, namespace, source, jwt))


def _translate(
    name: str, document: Document, intentions: Sequence[_Intention], world: _World
) -> tuple[model.Service, tuple[model.Policy, ...]]:
    """One called service: per source the intention that controls the pair (step 2 of `import_consul`)."""
    controlling: dict[tuple[str, str], _Intention] = {}
    # least exact first, so that what is more exact replaces it; `*` of the service itself replaces all of `*`
    for item in (item for item in intentions if item.called == "*"):
        controlling[item.source, item.namespace] = item
    own = [item for item in intentions if item.called == name]
    if any(item.source == "*" for item in own):
        controlling.clear()
    for item in own:
        controlling[item.source, item.namespace] = item
    protocol = world.protocols.get(name)
    if protocol is None:
        is_l7 = any(_items(item.document, item.node, "Permissions") for item in controlling.values())
        protocol = "http" if is_l7 else "tcp"
        document.note(ASSUMED, f"{protocol} for `{name}`", "no service-defaults say what it speaks")
    document.note(ASSUMED, f"port {DEFAULT_PORT} of `{name}`", "an intention names no port")
    ports: dict[int, Protocol] = {DEFAULT_PORT: protocol}
    allows: list[Said] = []
    exact = [
        world.identity(item.document, item.source, item.namespace)
        for item in controlling.values()
        if item.source != "*"
    ]
    for item in controlling.values():
        if item.source == "*":
            callers = field_of(CALLERS, (SpiffePattern(world.domain.id, subtree=True),), tuple(exact))
        else:
            callers = Field((world.identity(item.document, item.source, item.namespace),))
        assert callers is not None, "a trust domain has more members than have names"
        try:
            allows += _allows(item, callers, protocol, world)
        except Malformed:
            continue
    identity = world.identity(document, name, "default")
    return service_of(name, identity, ports), policies_of(name, allows, (), (DEFAULT_PORT,))


def _allows(item: _Intention, callers: Field[SpiffePattern], protocol: Protocol, world: _World) -> list[Said]:
    """What one intention allows: its action, or its permissions in order, each without the denies before it."""
    document, name = item.document, f"{item.called}.{item.source}".replace("*", "any")
    action, permissions = _text(document, item.node, "Action"), _items(document, item.node, "Permissions")
    if action and permissions:
        raise document.malformed("Action", "there, or `Permissions`, not both", item.node)
    tokens = _tokens(document, item.jwt, name, world) if item.jwt is not None else [Box()]
    if not permissions:
        if action not in {"allow", "deny"}:
            raise document.malformed("Action", "allow or deny", item.node)
        boxes = [Box(callers=callers)] if action == "allow" else []
        return [_said(box, name, document) for box in _each(boxes, tokens)]
    if protocol == "tcp":
        document.note(STRICTER, f"source `{item.source}`", "permissions on a tcp service hold for nothing", item.node)
        return []
    found: list[Said] = []
    denied: list[Box] = []
    for place, permission in enumerate(permissions):
        _only(document, permission, ("Action", "HTTP", "JWT"))
        is_deny = _text(document, permission, "Action") == "deny"
        boxes = _http(document, _field(document, permission, "HTTP"), f"{name}.{place}", is_deny=is_deny, world=world)
        if is_deny:
            denied += boxes
            continue
        jwt = _field(document, permission, "JWT")
        own = _tokens(document, jwt, name, world) if jwt is not None else [Box()]
        left = _each(_each(boxes, [Box(callers=callers)]), _each(tokens, own))
        for cut in denied:
            left = [piece for box in left for piece in subtract(box, cut)]
        found += [_said(box, f"{name}.{place}", document) for box in left]
    return found


def _said(box: Box, name: str, document: Document) -> Said:
    return Said(box=box, id=name, document=document, ports=(DEFAULT_PORT,))


def _each(ones: Sequence[Box], others: Sequence[Box]) -> list[Box]:
    found = []
    for one in ones:
        for other in others:
            try:
                both = meet(one, other)
            except Unsayable:
                continue
            if both is not None:
                found.append(both)
    return found


def _tokens(document: Document, node: Node, name: str, world: _World) -> list[Box]:
    """The providers of which one must have issued the token."""
    found = []
    for provider in _items(document, node, "Providers"):
        _only(document, provider, ("Name", "VerifyClaims"))
        issuer = world.issuers.get(_text(document, provider, "Name"))
        claims: dict[str, list[str]] = {}
        is_sayable = issuer is not None
        for claim in _items(document, provider, "VerifyClaims"):
            _only(document, claim, ("Path", "Value"))
            path = [str(item.scalar) for item in _items(document, claim, "Path")]
            is_sayable = is_sayable and len(path) == 1
            claims[path[0] if path else "?"] = [_text(document, claim, "Value")]
        if issuer is None or not is_sayable:
            reason = "no jwt-provider gives its issuer" if issuer is None else "a claim stands at the top of a token"
            document.note(REFUSED, f"{name}, JWT", reason, provider)
            continue
        found.append(Box(tests=frozenset({token_test(issuer, claims)})))
    return found


def _http(document: Document, node: Node | None, name: str, *, is_deny: bool, world: _World) -> list[Box]:
    """What a permission's `HTTP` holds: no more in an allow, no less in a deny."""
    if node is None:
        return [Box()]
    names = ("PathExact", "PathPrefix", "PathRegex", "Methods", "Header")
    _only(document, node, names)
    reading = Reading(document, name, is_deny, world.domain)
    exact, prefix = _text(document, node, "PathExact"), _text(document, node, "PathPrefix")
    texts = [exact] if exact else [f"{prefix}*"] if prefix else []
    if _text(document, node, "PathRegex"):
        texts = ["{regex}"]
    methods = tuple(str(item.scalar) for item in _items(document, node, "Methods")) or None
    try:
        paths = reading.field("path", tuple(texts) or None, None, _path, PATHS)
        words = reading.field("methods", methods, None, istiofields.method, WORDS)
    except CannotSay:
        return [Box()] if is_deny else []
    if paths is None or words is None:
        return []
    boxes = [Box(paths=paths, methods=words)]
    for header in _items(document, node, "Header"):
        boxes = _each(boxes, _header(document, header, reading))
    return boxes


def _path(reading: Reading, value: str, widens: bool) -> Meaning[PathPattern]:  # noqa: FBT001  one shape for all
    if value == "{regex}":
        raise CannotSay("a path is no regular expression")
    if "{" in value:
        raise CannotSay("a path holds no braces")
    return istiofields.path(reading, value, widens)


def _header(document: Document, node: Node, reading: Reading) -> list[Box]:
    """A header's test: equal to a value, or not; anything else is refused, or denied whatever it is."""
    names = ("Name", "Present", "Exact", "Prefix", "Suffix", "Contains", "Regex", "Invert", "IgnoreCase")
    _only(document, node, names)
    name, exact = _text(document, node, "Name").lower(), _text(document, node, "Exact")
    others = [
        field
        for field in names[1:]
        if field not in {"Exact", "Invert"} and _text(document, node, field) not in {"", "False"}
    ]
    if not name or others or not exact:
        if reading.is_deny:
            document.note(STRICTER, f"{reading.rule}, header `{name}`", "it is denied whatever the header is", node)
            return [Box()]
        document.note(REFUSED, f"{reading.rule}, header `{name}`", "a header has one of several values", node)
        return []
    is_inverted = _text(document, node, "Invert") == "True"
    values, nots = (None, (exact,)) if is_inverted else ((exact,), None)
    field = reading.field(f"header {name}", values, nots, istiofields.header_value, WORDS)
    return [] if field is None else [Box(headers=((name, field),))]
