"""One AuthorizationPolicy's rules as boxes: `from` and `to` are ORed lists, `when` is ANDed, every field is ANDed.

On a TCP port an ALLOW with a field of HTTP never holds; a DENY loses the field and keeps the rest, which denies more.
Limen's tree says both as Istio does.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

from mesh.spiffe import SpiffePattern, TrustDomain
from mesh.yamlio import Node
from policyengine.compile.boxes import CALLERS, HOSTS, NETWORKS, PATHS, WORDS, Box, Field, Test, Unsayable, meet
from policyengine.importers import istiofields
from policyengine.importers.documents import ASSUMED, REFUSED, STRICTER, Document
from policyengine.importers.istiofields import CannotSay, Meaning, Reading
from policyengine.importers.trees import Said, token_test
from policyengine.reading import TOKEN

_SOURCE = (
    "principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains", "ipBlocks", "remoteIpBlocks",
)  # fmt: skip
_OPERATION = ("hosts", "ports", "methods", "paths")
_HTTP_FIELDS = frozenset({"requestPrincipals", "remoteIpBlocks", "hosts", "methods", "paths"})
_HTTP_KEYS = ("request.", "remote.ip")
_KEY = re.compile(r"([a-z.]+)(?:\[([^\[\]]+)\])?")
_SPACED = frozenset({"scope", "permission"})
"""Claims that Istio splits at spaces."""


def _not(name: str) -> str:
    return f"not{name[0].upper()}{name[1:]}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where a rule is read for: one kind of ports of one workload."""

    document: Document
    is_deny: bool
    is_tcp: bool
    ports: tuple[int, ...]
    domain: TrustDomain
    issuers: tuple[str, ...]


def rules_of(spec: Node, context: Context) -> list[Said]:
    """What the rules of a policy say on one kind of ports. A rule without fields holds always."""
    document = context.document
    found: list[Said] = []
    for place, rule in enumerate(document.items(spec, "rules") or ()):
        if rule.kind == "null":
            rule = Node(kind="map", span=rule.span)  # noqa: PLW2901  `- ` is a rule without fields
        document.only(rule, ("from", "to", "when"))
        sources: list[Node | None] = _parts(document, rule, "from", "source")
        operations: list[Node | None] = _parts(document, rule, "to", "operation")
        name = f"{document.name}.{place}"
        conditions = _when(document, rule, name, context)
        boxes: list[tuple[tuple[int, ...], Box]] = []
        for source, operation in itertools.product(sources, operations):
            callers = _source(document, source, name, context)
            for ports, done in _operation(document, operation, name, context):
                boxes += [(ports, box) for box in _together([callers, [done], *conditions], document, name, context)]
        for number, (ports, box) in enumerate(boxes):
            identifier = name if len(boxes) == 1 else f"{name}-{number}"
            found.append(Said(box=box, id=_rule_id(identifier), document=document, ports=ports))
    return found


def _rule_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", text)[:200]


def _together(choices: Sequence[list[Box]], document: Document, name: str, context: Context) -> list[Box]:
    """Every way to choose one box of each list, together."""
    found = []
    for chosen in itertools.product(*choices):
        box: Box | None = Box()
        for item in chosen:
            if box is None:
                break
            try:
                box = meet(box, item)
            except Unsayable:
                if context.is_deny:
                    document.note(STRICTER, f"rule {name}", "two patterns of paths meet in what has no name")
                    continue
                document.note(REFUSED, f"rule {name}", "two patterns of paths meet in what has no name")
                box = None
        if box is not None:
            found.append(box)
    return found


def _parts(document: Document, rule: Node, field: str, inner: str) -> list[Node | None]:
    """The items of `from` or `to`; no list, or an empty one, holds always."""
    items = document.items(rule, field)
    if not items:
        return [None]
    found: list[Node | None] = []
    for item in items:
        document.only(item, (inner,))
        part = document.child(item, inner)
        if part is None or part.kind != "map" or not part.pairs:
            raise document.malformed(inner, "a mapping with a field", item)
        found.append(part)
    return found


def _has_http(document: Document, node: Node | None) -> bool:
    if node is None:
        return False
    names = [name for name in _HTTP_FIELDS if document.texts(node, name) or document.texts(node, _not(name))]
    return bool(names)


def _source(document: Document, source: Node | None, name: str, context: Context) -> list[Box]:
    """The boxes of one `source`; none when it names nobody that Limen can name."""
    if source is None:
        return [Box()]
    document.only(source, (*_SOURCE, *map(_not, _SOURCE)))
    if context.is_tcp and _has_http(document, source):
        if not context.is_deny:
            return []
        document.note(STRICTER, f"rule {name}", "on a TCP port Istio drops fields of HTTP from a DENY: so does this")
    reading = Reading(document, name, context.is_deny, context.domain, document.namespace)
    blocks, not_blocks = document.texts(source, "ipBlocks"), document.texts(source, "notIpBlocks")
    peers = reading.field("ipBlocks", blocks, not_blocks, istiofields.block, NETWORKS)
    boxes = _callers(document, source, reading, context)
    if peers is not None:
        boxes = _joined([Box(peers=peers)], boxes)
    if not context.is_tcp:
        boxes = _joined(boxes, _forwarded(document, source, name, context))
        boxes = _joined(boxes, _tokens(document, source, name, context))
    return [] if peers is None else boxes


def _callers(document: Document, source: Node, reading: Reading, context: Context) -> list[Box]:
    """The boxes of the fields that name callers.

    Istio does not bind namespaces and accounts to a trust domain: in a deny every foreign one is denied as well, and
    where an allow leaves them out it leaves out everybody foreign.
    """
    boxes = [Box()]
    is_loose = False
    for field, read in (
        ("principals", istiofields.principal),
        ("namespaces", istiofields.namespace),
        ("serviceAccounts", istiofields.account),
        ("trustDomains", istiofields.trust_domain),
    ):
        values, nots = document.texts(source, field), document.texts(source, _not(field))
        if values is None and nots is None:
            continue
        found = reading.field(field, values, nots, read, CALLERS)
        if found is None:
            return []
        boxes = _joined(boxes, [Box(callers=found)])
        loose = values if context.is_deny else nots
        named = [value for value in loose or () if field != "principals" or value.startswith("*/")]
        is_loose = is_loose or (field != "trustDomains" and bool(named))
    return _bound(boxes, context) if is_loose else boxes


def _bound(boxes: list[Box], context: Context) -> list[Box]:
    local = SpiffePattern(context.domain.id, subtree=True)
    if context.is_deny:
        return [*boxes, Box(callers=Field(None, (local,)))]
    return _joined(boxes, [Box(callers=Field((local,)))])


def _joined(ones: list[Box], others: list[Box]) -> list[Box]:
    pairs = (meet(one, other) for one in ones for other in others)
    return [box for box in pairs if box is not None]


def _forwarded(document: Document, source: Node, name: str, context: Context) -> list[Box]:
    """`remoteIpBlocks`: the address that a trusted proxy reports; the peer's where none does."""
    values, nots = document.texts(source, "remoteIpBlocks"), document.texts(source, "notRemoteIpBlocks")
    if values is None and nots is None:
        return [Box()]
    return _remote(document, values, nots, name, context)


def _remote(
    document: Document, values: Sequence[str] | None, nots: Sequence[str] | None, name: str, context: Context
) -> list[Box]:
    reading = Reading(document, name, context.is_deny, context.domain)
    field = reading.field("remoteIpBlocks", values, nots, istiofields.block, NETWORKS)
    if field is None:
        return []
    what = f"rule {name}, remoteIpBlocks"
    if field.outside:
        if context.is_deny:
            document.note(STRICTER, what, "an address that is left out is denied too")
            return [Box()]
        document.note(REFUSED, what, "without a proxy Istio takes the peer's address for the reported one")
        return []
    values = tuple(map(str, field.inside or ()))
    forwarded = Box(tests=frozenset({Test("forwarded_ip", "", values)}))
    if context.is_deny:
        document.note(STRICTER, what, "both the reported address and the peer's are denied")
        return [forwarded, Box(peers=Field(field.inside))]
    document.note(STRICTER, what, "the address is one that a trusted proxy reports")
    return [forwarded]


def _tokens(document: Document, source: Node, name: str, context: Context) -> list[Box]:
    """`requestPrincipals`: `ISSUER/SUBJECT` of a verified token."""
    values, nots = document.texts(source, "requestPrincipals"), document.texts(source, "notRequestPrincipals")
    return _request_principals(document, values, nots, name, context)


def _request_principals(
    document: Document, values: Sequence[str] | None, nots: Sequence[str] | None, name: str, context: Context
) -> list[Box]:
    boxes = [Box()]
    if values is not None:
        inside: list[Test] = []
        for value in values:
            inside += _principal_tests(document, value, name, context, widens=context.is_deny) or ()
            if context.is_deny and _principal_tests(document, value, name, context, widens=True) is None:
                return [Box()]
        boxes = [Box(tests=frozenset({test})) for test in inside]
    for value in nots or ():
        tests = _principal_tests(document, value, name, context, widens=not context.is_deny)
        if tests is None:
            return []
        cut = [Box(tests=frozenset({dataclasses.replace(test, is_positive=False)})) for test in tests]
        for box in cut:
            boxes = _joined(boxes, [box])
    return boxes


def _principal_tests(document: Document, value: str, name: str, context: Context, *, widens: bool) -> list[Test] | None:
    """The tokens that a request principal names; None is any request, when it may be more."""
    what = f"rule {name}, requestPrincipals `{value}`"
    document.note(ASSUMED, what, "every token has a `sub`")
    if value == "*":
        return [token_test(issuer, {}) for issuer in context.issuers]
    if value.startswith("*/") and "*" not in value[1:]:
        return [token_test(issuer, {"sub": [value[2:]]}) for issuer in context.issuers]
    issuer, slash, subject = value.rpartition("/")
    if slash and subject == "*" and "*" not in issuer:
        return [token_test(issuer, {})] if issuer in context.issuers else []
    if slash and "*" not in value:
        return [token_test(issuer, {"sub": [subject]})] if issuer in context.issuers else []
    if widens:
        document.note(STRICTER, what, "a part of a subject is any token")
        return [token_test(known, {}) for known in context.issuers]
    document.note(STRICTER if context.is_deny else REFUSED, what, "a subject is named whole")
    return []


def _operation(
    document: Document, operation: Node | None, name: str, context: Context
) -> list[tuple[tuple[int, ...], Box]]:
    """The ports and the box of one `operation`; nothing when it cannot hold here."""
    if operation is None:
        return [(context.ports, Box())]
    document.only(operation, (*_OPERATION, *map(_not, _OPERATION)))
    ports = _ports(document, operation, context)
    if not ports:
        return []
    if context.is_tcp:
        if not _has_http(document, operation):
            return [(ports, Box())]
        if not context.is_deny:
            return []
        document.note(STRICTER, f"rule {name}", "on a TCP port Istio drops fields of HTTP from a DENY: so does this")
        return [(ports, Box())]
    reading = Reading(document, name, context.is_deny, context.domain)

    def values(field: str) -> tuple[Sequence[str] | None, Sequence[str] | None]:
        return document.texts(operation, field), document.texts(operation, _not(field))

    methods = reading.field("methods", *values("methods"), istiofields.method, WORDS)
    hosts = reading.field("hosts", *values("hosts"), istiofields.host, HOSTS)
    paths = reading.field("paths", *values("paths"), istiofields.path, PATHS)
    if methods is None or hosts is None or paths is None:
        return []
    return [(ports, Box(methods=methods, hosts=hosts, paths=paths))]


def _ports(document: Document, operation: Node, context: Context) -> tuple[int, ...]:
    named, nots = document.texts(operation, "ports"), document.texts(operation, "notPorts")
    for value in (*(named or ()), *(nots or ())):
        if not value.isdigit():
            raise document.malformed("ports", "port numbers", operation)
    inside = context.ports if named is None else [port for port in context.ports if str(port) in named]
    return tuple(port for port in inside if str(port) not in (nots or ()))


def ports_of(spec: Node) -> set[int]:
    """The ports that the rules of a policy name."""
    rules = spec.get("rules")
    found: set[int] = set()
    for rule in rules.items if rules is not None else ():
        to = rule.get("to") if rule.kind == "map" else None
        for item in to.items if to is not None else ():
            operation = item.get("operation") if item.kind == "map" else None
            ports = operation.get("ports") if operation is not None and operation.kind == "map" else None
            for port in ports.items if ports is not None else ():
                text = str(port.scalar)
                if text.isdigit() and 1 <= int(text) <= 65535:
                    found.add(int(text))
    return found


def reads_request(spec: Node) -> bool:
    """Whether a rule of a policy has a field of HTTP."""
    rules = spec.get("rules")
    for rule in rules.items if rules is not None else ():
        if rule.kind != "map":
            continue
        for field, inner in (("from", "source"), ("to", "operation")):
            parts = rule.get(field)
            for item in parts.items if parts is not None else ():
                part = item.get(inner) if item.kind == "map" else None
                names = [str(key.scalar) for key, _ in part.pairs] if part is not None else []
                if any(name in _HTTP_FIELDS or name in map(_not, _HTTP_FIELDS) for name in names):
                    return True
        when = rule.get("when")
        for item in when.items if when is not None else ():
            key = item.get("key") if item.kind == "map" else None
            if key is not None and str(key.scalar).startswith(_HTTP_KEYS):
                return True
    return False


# ---------------------------------------------------------------------- when


def _when(document: Document, rule: Node, name: str, context: Context) -> list[list[Box]]:
    """The conditions of a rule, each as boxes of which one holds."""
    found: list[list[Box]] = []
    for item in document.items(rule, "when") or ():
        document.only(item, ("key", "values", "notValues"))
        key = document.text(item, "key")
        values, nots = document.texts(item, "values"), document.texts(item, "notValues")
        if not key or (values is None and nots is None):
            raise document.malformed("when", "a key with `values` or `notValues`", item)
        if context.is_tcp and key.startswith(_HTTP_KEYS):
            if not context.is_deny:
                return [[]]
            document.note(
                STRICTER, f"rule {name}", "on a TCP port Istio drops fields of HTTP from a DENY: so does this"
            )
            continue
        found.append(_condition(document, key, values, nots, name, context))
    return found


_CALLERS = {
    "source.principal": istiofields.principal,
    "source.namespace": istiofields.namespace,
    "source.serviceAccount": istiofields.account,
}
_CLAIMS = {"request.auth.audiences": "aud", "request.auth.presenter": "azp"}


def _condition(
    document: Document, key: str, values: Sequence[str] | None, nots: Sequence[str] | None, name: str, context: Context
) -> list[Box]:
    """One condition as boxes of which one holds."""
    reading = Reading(document, f"{name}, {key}", context.is_deny, context.domain, document.namespace)
    match = _KEY.fullmatch(key)
    plain, inner = (match[1], match[2]) if match is not None else ("", None)
    if key == "source.ip":
        field = reading.field("values", values, nots, istiofields.block, NETWORKS)
        return [] if field is None else [Box(peers=field)]
    if key == "remote.ip":
        return _remote(document, values, nots, name, context)
    if key in _CALLERS:
        callers = reading.field("values", values, nots, _CALLERS[key], CALLERS)
        if callers is None:
            return []
        loose = values if context.is_deny else nots
        return _bound([Box(callers=callers)], context) if loose else [Box(callers=callers)]
    if key == "request.auth.principal":
        return _request_principals(document, values, nots, name, context)
    if plain == "request.headers" and inner is not None:
        return _header(document, inner, values, nots, reading)
    claim = inner if plain == "request.auth.claims" else _CLAIMS.get(key)
    if claim is not None:
        return _claim(document, claim, values, nots, reading, context)
    if context.is_deny:
        document.note(STRICTER, f"rule {name}, `{key}`", "what it depends on has no name: it is denied whatever it is")
        return [Box()]
    document.note(REFUSED, f"rule {name}, `{key}`", "what it depends on has no name")
    return []


def _header(
    document: Document, header: str, values: Sequence[str] | None, nots: Sequence[str] | None, reading: Reading
) -> list[Box]:
    lower = header.lower()
    if TOKEN.fullmatch(lower) is None or lower == "host":
        what = f"rule {reading.rule}"
        document.note(STRICTER if reading.is_deny else REFUSED, what, "it is no header that a rule may name")
        return [Box()] if reading.is_deny else []
    field = reading.field("values", values, nots, istiofields.header_value, WORDS)
    return [] if field is None else [Box(headers=((lower, field),))]


def _claim(
    document: Document,
    claim: str,
    values: Sequence[str] | None,
    nots: Sequence[str] | None,
    reading: Reading,
    context: Context,
) -> list[Box]:
    """A claim of a token of any issuer that the workload takes."""

    def read(_: Reading, value: str, widens: bool) -> Meaning[str]:  # noqa: FBT001  one shape for all
        if "*" in (value[:1], value[-1:]):
            raise CannotSay("a claim has one of several values: a part of one is none")
        if claim in _SPACED and widens:
            raise CannotSay("Istio splits this claim at spaces")
        return Meaning((value,))

    field = reading.field("values", values, nots, read, WORDS)
    if claim in _SPACED and field is not None and not field.is_free:
        document.note(STRICTER, f"rule {reading.rule}", "Istio splits this claim at spaces, Limen compares it whole")
    if field is None:
        return []
    boxes = [Box()]
    if field.inside is not None:
        if claim == "iss":
            boxes = [
                Box(tests=frozenset({token_test(issuer, {})})) for issuer in context.issuers if issuer in field.inside
            ]
        else:
            boxes = [Box(tests=frozenset({token_test(issuer, {claim: field.inside})})) for issuer in context.issuers]
    for issuer in context.issuers if field.outside else ():
        if claim == "iss" and issuer not in field.outside:
            continue
        cut = token_test(issuer, {} if claim == "iss" else {claim: field.outside}, is_positive=False)
        boxes = _joined(boxes, [Box(tests=frozenset({cut}))])
    return boxes
