"""From allows and denies, given as boxes, to the policies of a service.

Limen's rules leave out callers or one condition by `unless`; other systems leave out paths, methods and more. Two
devices say those too. A deny that leaves out what `unless` cannot name is cut out of the allows, which turns "not
these paths" into "only these". An allow that leaves out such things stands in a tier before the others, with a
`pass` on what it leaves out. Where two of them would disturb each other, the result is stricter and says so.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence

from mesh.request import Effect, Protocol
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.compile.boxes import Box, Field, Test, Unsayable, meet, subtract
from policyengine.importers.documents import REFUSED, STRICTER, Document

TOKEN = "token"  # noqa: S105  a kind of test, not a secret
OWNER = "imported"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a rule of another system says: requests in a box on some ports."""

    box: Box
    id: str
    document: Document
    ports: tuple[int, ...]


def token_test(issuer: str, claims: Mapping[str, Sequence[str]], *, is_positive: bool = True) -> Test:
    """A verified token of an issuer, with one of the values of each claim."""
    return Test(TOKEN, issuer, (json.dumps({name: list(claims[name]) for name in sorted(claims)}),), is_positive)


def service_of(name: str, identity: SpiffePattern, ports: Mapping[int, Protocol], owner: str = OWNER) -> model.Service:
    """A called service."""
    listed = tuple(model.Port(port=port, protocol=protocol) for port, protocol in sorted(ports.items()))
    return model.Service(name=name, owner=owner, identities=(identity,), ports=listed)


def policies_of(
    service: str, allows: Sequence[Said], denies: Sequence[Said], every: tuple[int, ...]
) -> tuple[model.Policy, ...]:
    """The policies of a service with the ports ``every``.

    1. A deny that can be said is a deny of the guardrail tier; any other is cut out of EVERY allow.
    2. An allow that can be said is an allow of the baseline tier.
    3. Any other allow stands in the app tier, or the guardrail tier when it would disturb one there, and passes on what
       it leaves out. Where it disturbs others in both, it is stricter.
    """
    rules: dict[model.Tier, list[model.Rule]] = {tier: [] for tier in model.TIERS}
    # (1)
    kept = list(allows)
    for deny in denies:
        made = _rule(deny, Effect.DENY, every)
        if made is not None:
            rules["guardrail"].append(made)
        else:
            kept = [piece for allow in kept for piece in _cut(allow, deny)]
    placed: dict[model.Tier, list[tuple[Said, list[Box]]]] = {"app": [], "guardrail": []}
    for allow in kept:
        # (2)
        made = _rule(allow, Effect.ALLOW, every)
        if made is not None:
            rules["baseline"].append(made)
            continue
        # (3)
        whole, left_out = _opened(allow.box)
        made = _rule(dataclasses.replace(allow, box=whole), Effect.ALLOW, every)
        passes = [
            _rule(dataclasses.replace(allow, box=box, id=f"{allow.id}-not"), Effect.PASS, every) for box in left_out
        ]
        if made is None or any(item is None for item in passes):
            allow.document.note(REFUSED, f"rule {allow.id}", "what it leaves out has no name of its own")
            continue
        tiers: tuple[model.Tier, ...] = ("app", "guardrail")
        tier = next((tier for tier in tiers if not _disturbs(allow, left_out, placed[tier])), None)
        if tier is None:
            tier = "app"
            allow.document.note(
                STRICTER, f"rule {allow.id}", "what it leaves out is left out of rules that overlap too"
            )
        placed[tier].append((allow, left_out))
        rules[tier] += [made, *(item for item in passes if item is not None)]
    return tuple(
        model.Policy(name=f"{service}-{tier}", owner=OWNER, service=service, tier=tier, rules=_numbered(rules[tier]))
        for tier in model.TIERS
        if rules[tier]
    )


def _numbered(rules: Iterable[model.Rule]) -> tuple[model.Rule, ...]:
    """The rules, each once and with an id of its own."""
    seen: dict[str, model.Rule] = {}
    for rule in rules:
        name, number = rule.id, 2
        while name in seen and dataclasses.replace(seen[name], id=rule.id) != rule:
            name, number = f"{rule.id}.{number}", number + 1
        seen.setdefault(name, dataclasses.replace(rule, id=name))
    return tuple(seen.values())


def _cut(allow: Said, deny: Said) -> list[Said]:
    """An allow without what a deny holds."""
    both = tuple(port for port in allow.ports if port in deny.ports)
    others = tuple(port for port in allow.ports if port not in deny.ports)
    found = [dataclasses.replace(allow, ports=others)] if others else []
    if both:
        found += [dataclasses.replace(allow, box=box, ports=both) for box in subtract(allow.box, deny.box)]
    return found


def _disturbs(allow: Said, left_out: Sequence[Box], placed: Sequence[tuple[Said, list[Box]]]) -> bool:
    """Whether an allow's passes hold a request of another in the tier, or theirs one of its own."""
    for other, theirs in placed:
        if not set(allow.ports) & set(other.ports):
            continue
        if any(_overlap(box, other.box) for box in left_out) or any(_overlap(box, allow.box) for box in theirs):
            return True
    return False


def _overlap(one: Box, other: Box) -> bool:
    try:
        return meet(one, other) is not None
    except Unsayable:
        return True


def _opened(box: Box) -> tuple[Box, list[Box]]:
    """A box that leaves nothing out but callers, and what was left out, as boxes within it."""
    positive = frozenset(test for test in box.tests if test.is_positive)
    whole = Box(
        callers=box.callers,
        methods=Field(box.methods.inside),
        hosts=Field(box.hosts.inside),
        paths=Field(box.paths.inside),
        headers=tuple((name, Field(field.inside)) for name, field in box.headers if field.inside is not None),
        peers=Field(box.peers.inside),
        tests=positive,
    )
    cuts = [Box(methods=Field(box.methods.outside))] if box.methods.outside else []
    cuts += [Box(hosts=Field(box.hosts.outside))] if box.hosts.outside else []
    cuts += [Box(paths=Field(box.paths.outside))] if box.paths.outside else []
    cuts += [Box(peers=Field(box.peers.outside))] if box.peers.outside else []
    cuts += [Box(headers=((name, Field(field.outside)),)) for name, field in box.headers if field.outside]
    cuts += [Box(tests=frozenset({dataclasses.replace(test, is_positive=True)})) for test in box.tests - positive]
    left_out = []
    for cut in cuts:
        try:
            both = meet(whole, cut)
        except Unsayable:
            both = dataclasses.replace(cut, callers=whole.callers)  # more than is needed: stricter
        if both is not None:
            left_out.append(both)
    return whole, left_out


def _rule(said: Said, effect: Effect, every: tuple[int, ...]) -> model.Rule | None:
    """One rule; None when its box leaves out what `unless` cannot name, or its tests have no name."""
    box = said.box
    if box.methods.outside or box.hosts.outside or box.paths.outside:
        return None
    negative = [test for test in box.tests if not test.is_positive]
    cuts = [Box(peers=Field(box.peers.outside))] if box.peers.outside else []
    cuts += [Box(headers=((name, Field(field.outside)),)) for name, field in box.headers if field.outside]
    cuts += [Box(tests=frozenset({dataclasses.replace(test, is_positive=True)})) for test in negative]
    if len(cuts) + bool(box.callers.outside) > 1:
        return None
    positive = frozenset(box.tests) - set(negative)
    try:
        when = conditions_of(box.headers, box.peers, positive)
        spared = conditions_of(cuts[0].headers, cuts[0].peers, cuts[0].tests) if cuts else None
    except Unsayable:
        return None
    unless = None
    if box.callers.outside:
        unless = model.Unless(from_=tuple(map(principal_of, box.callers.outside)))
    elif spared is not None:
        unless = model.Unless(when=spared)
    inside = box.callers.inside
    callers = (model.Principal("any"),) if inside is None else tuple(map(principal_of, inside))
    ports = None if said.ports == every else said.ports
    operation = model.Operation(ports=ports, methods=box.methods.inside, hosts=box.hosts.inside, paths=box.paths.inside)
    to = None if operation == model.Operation() else (operation,)
    return model.Rule(id=said.id, effect=effect, from_=callers, to=to, when=when, unless=unless)


def principal_of(pattern: SpiffePattern) -> model.Principal:
    """A pattern as a rule names it."""
    return model.Principal("spiffe", str(pattern), pattern)


def conditions_of(
    headers: Sequence[tuple[str, Field[str]]], peers: Field[model.Network], tests: frozenset[Test]
) -> model.Conditions | None:
    """The condition `when`; None when there is none.

    Raises Unsayable when two tests of a token cannot be one.
    """
    claims: model.ClaimsCondition | None = None
    forwarded: tuple[model.Network, ...] | None = None
    for test in sorted(tests):
        if test.kind == TOKEN:
            values: dict[str, tuple[model.ClaimValue, ...]] = dict(claims.values) if claims is not None else {}
            found = json.loads(str(test.values[0]))
            if (claims is not None and claims.issuer != test.key) or any(
                values.get(name, tuple(allowed)) != tuple(allowed) for name, allowed in found.items()
            ):
                raise Unsayable
            values |= {name: tuple(allowed) for name, allowed in found.items()}
            claims = model.ClaimsCondition(issuer=test.key, values=tuple(sorted(values.items())))
        else:
            if forwarded is not None:
                raise Unsayable
            forwarded = tuple(ipaddress.ip_network(str(value)) for value in test.values)
    named = tuple((name, field.inside) for name, field in headers if field.inside is not None)
    if claims is None and forwarded is None and not named and peers.inside is None:
        return None
    return model.Conditions(claims=claims, headers=named or None, peer_ip=peers.inside, forwarded_ip=forwarded)
