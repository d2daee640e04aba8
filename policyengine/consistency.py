"""What must hold between the objects of a policy set: names, ports, identities, fields with a meaning.

The loader and the reader of snapshots both demand it. A finding names its place by kind, position and field, as
`policyengine.reading` does. Whether a set is wise is the business of `policyengine.lint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from mesh.request import Effect
from policyengine import model
from policyengine.canonical import Ambiguous
from policyengine.lookalikes import skeleton
from policyengine.parts import middles
from policyengine.reading import Finding, Path, did_you_mean
from policyengine.regocheck import MAX_MODULES, MODULE_PATH, check_text, package_of

Fresh = Callable[[model.Policy], Sequence[tuple[int, model.Rule]] | None]
"""The rules of a policy about which there is something new, with their places; None when all of it is as it was."""


class Checked:
    """The policies in which a check found nothing: their rules need not be looked at again.

    What a rule is checked against is the service of its policy, the names of all services and groups, modules and
    issuers.
    """

    def __init__(self) -> None:
        self._clean: dict[str, tuple[model.Policy, model.Service | None]] = {}
        self._names: object = None

    def begin(self, found: model.PolicySet) -> Fresh:
        """Begin a check; says of a policy which rules are new."""
        services = {item.name: item for item in found.services}
        names = (frozenset(services), frozenset(item.name for item in found.groups), found.rego, found.issuers)
        if names != self._names:
            self._names, self._clean = names, {}

        def fresh(policy: model.Policy) -> Sequence[tuple[int, model.Rule]] | None:
            held, service = self._clean.get(policy.name, (None, None))
            if held is None or held.service != policy.service or service is not services.get(policy.service):
                return list(enumerate(policy.rules))
            if held is policy:
                return None
            before, after, begin = middles(held.rules, policy.rules)
            # they are held, so that nothing else can have their ids
            known = frozenset(map(id, before))
            return [(place, rule) for place, rule in enumerate(after, begin) if id(rule) not in known]

        return fresh

    def end(self, found: model.PolicySet, findings: Iterable[Finding]) -> None:
        """Remember the policies without a finding."""
        dirty = {finding.path[1] for finding in findings if finding.path[0] == "policies"}
        services = {item.name: item for item in found.services}
        self._clean = {
            policy.name: (policy, services.get(policy.service))
            for place, policy in enumerate(found.policies)
            if place not in dirty
        }


def check(found: model.PolicySet, checked: Checked | None = None) -> list[Finding]:
    """All contradictions between the objects of a set; ``checked`` is what the same checker found before.

    1. Names are unique within a kind, and none looks like another; policies and exceptions share one space, because
       decisions name both.
    2. The identities of two services are disjoint.
    3. Every service, group and port that something names exists; groups do not contain themselves.
    4. Every field of every rule has a meaning where the rule applies (`_check_ports`). Paths of a service that
       ignores case have letters whose case every program sees alike.
    5. A custom rule that no module of the set can have is noted: it is unknown. Modules keep to what rules may be
       made of, as far as their text shows it.
    """
    checked = Checked() if checked is None else checked
    fresh = checked.begin(found)
    findings = [
        *_check_names(found),
        *_check_identities(found),
        *_check_references(found, fresh),
        *_check_cycles(found),
        *_check_rules(found, fresh),
        *_check_case(found),
        *_check_issuers(found),
        *_check_modules(found),
    ]
    checked.end(found, findings)
    return findings


def _check_names(found: model.PolicySet) -> Iterator[Finding]:
    """(1)."""
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("services", tuple(item.name for item in found.services)),
        ("policies", tuple(item.name for item in found.policies)),
        ("groups", tuple(item.name for item in found.groups)),
        ("invariants", tuple(item.name for item in found.invariants)),
        ("exceptions", tuple(item.name for item in found.exceptions)),
        ("issuers", tuple(item.name for item in found.issuers)),
    )
    for kind, names in kinds:
        seen: set[str] = {item.name for item in found.policies} if kind == "exceptions" else set()
        alike = {skeleton(name): name for name in seen}
        for place, name in enumerate(names):
            if name in seen:
                yield Finding((kind, place), "LM2030", {"name": name, "kind": kind})
            elif (other := alike.get(skeleton(name))) is not None:
                yield Finding((kind, place), "LM2051", {"name": name, "kind": kind, "other": other})
            seen.add(name)
            alike.setdefault(skeleton(name), name)


def _check_identities(found: model.PolicySet) -> Iterator[Finding]:
    """(2). Sorted by path, patterns that overlap are neighbours of an enclosing one, so this stays quick."""
    entries = sorted(
        (
            (str(pattern.id.trust_domain), pattern.id.segments, pattern, place, service.name, index)
            for place, service in enumerate(found.services)
            for index, pattern in enumerate(service.identities)
        ),
        key=lambda entry: (entry[0], entry[1], not entry[2].subtree, entry[3], entry[5]),
    )
    enclosing: list[tuple[str, tuple[str, ...], object, str]] = []
    for domain, segments, pattern, place, name, index in entries:
        while enclosing and not (enclosing[-1][0] == domain and segments[: len(enclosing[-1][1])] == enclosing[-1][1]):
            enclosing.pop()
        for _, _, other, owner in enclosing:
            if owner != name and pattern.overlaps(other):  # type: ignore[arg-type]  # a SpiffePattern by construction
                facts = {"identity": str(pattern), "service": name, "other": owner}
                yield Finding(("services", place, "identities", index), "LM2034", facts)
                break
        enclosing.append((domain, segments, pattern, name))


def _users(
    found: model.PolicySet,
    fresh: Fresh,
) -> Iterator[tuple[Path, str | None, str, tuple[tuple[str, tuple[model.Principal, ...]], ...]]]:
    """Everything that names services and principals: path, called service, path field, lists of principals."""
    for place, policy in enumerate(found.policies):
        rules = fresh(policy)
        if rules is None:
            continue
        yield ("policies", place), policy.service, "service", ()
        for index, rule in rules:
            lists = [("from", rule.from_)]
            if rule.unless is not None and rule.unless.from_ is not None:
                lists.append(("unless", rule.unless.from_))
            yield ("policies", place, "rules", index), None, "", tuple(lists)
    for place, group in enumerate(found.groups):
        yield ("groups", place), None, "", (("members", group.members),)
    for place, invariant in enumerate(found.invariants):
        yield ("invariants", place, "forbid"), invariant.service, "service", (("from", invariant.from_),)
    for place, exception in enumerate(found.exceptions):
        yield ("exceptions", place, "rule"), exception.service, "service", (("from", exception.from_),)


def _check_references(found: model.PolicySet, fresh: Fresh) -> Iterator[Finding]:
    """(3), services and groups."""
    services = {item.name for item in found.services}
    groups = {item.name for item in found.groups}
    for path, called, field, lists in _users(found, fresh):
        if called is not None and called not in services:
            facts = {"service": called, "hint": did_you_mean(called, services)}
            yield Finding((*path, field), "LM2032", facts)
        for name, principals in lists:
            where: Path = (*path, name, "from") if name == "unless" else (*path, name)
            for index, principal in enumerate(principals):
                known = {"service": services, "group": groups}.get(principal.kind)
                if known is not None and principal.name not in known:
                    code = "LM2032" if principal.kind == "service" else "LM2033"
                    hint = did_you_mean(principal.name, known)
                    yield Finding((*where, index), code, {principal.kind: principal.name, "hint": hint})


def _check_cycles(found: model.PolicySet) -> Iterator[Finding]:
    """(3), groups that contain themselves."""
    edges = {item.name: [m.name for m in item.members if m.kind == "group"] for item in found.groups}
    for place, group in enumerate(found.groups):
        seen: set[str] = set()
        waiting = list(edges[group.name])
        while waiting:
            name = waiting.pop()
            if name == group.name:
                yield Finding(("groups", place, "members"), "LM2035", {"group": group.name})
                break
            if name not in seen:
                seen.add(name)
                waiting.extend(edges.get(name, ()))


def _check_rules(found: model.PolicySet, fresh: Fresh) -> Iterator[Finding]:
    """(3) ports, (4) and (5) for all rules, exceptions and invariants."""
    services = {item.name: item for item in found.services}
    packages = {package_of(module.source) for module in found.rego}
    for place, policy in enumerate(found.policies):
        for index, rule in fresh(policy) or ():
            path: Path = ("policies", place, "rules", index)
            if policy.service in services:
                yield from _check_ports(services[policy.service], rule, path)
            for name in rule.custom_rules():
                if name.removeprefix("data.").rpartition(".")[0] not in packages:
                    yield Finding(path, "LM2040", {"rule": rule.id, "rego": name})
    for place, exception in enumerate(found.exceptions):
        if exception.service in services:
            yield from _check_ports(services[exception.service], exception.as_rule(), ("exceptions", place, "rule"))
    for place, invariant in enumerate(found.invariants):
        if invariant.service in services:
            declared = {port.port for port in services[invariant.service].ports}
            yield from _undeclared(invariant.to, declared, invariant.service, ("invariants", place, "forbid"))


def _check_case(found: model.PolicySet) -> Iterator[Finding]:
    """(4), paths."""
    folding = {item.name for item in found.services if item.path_case == "insensitive"}
    if not folding:
        return
    said: list[tuple[str, tuple[model.Operation, ...] | None, Path]] = [
        (policy.service, rule.to, ("policies", place, "rules", index))
        for place, policy in enumerate(found.policies)
        for index, rule in enumerate(policy.rules)
    ]
    said += [(item.service, item.to, ("exceptions", place, "rule")) for place, item in enumerate(found.exceptions)]
    said += [(item.service, item.to, ("invariants", place, "forbid")) for place, item in enumerate(found.invariants)]
    for service, operations, path in said:
        for index, operation in enumerate(operations or () if service in folding else ()):
            for position, pattern in enumerate(operation.paths or ()):
                if isinstance(pattern.folded(), Ambiguous):
                    facts = {"value": str(pattern), "service": service}
                    yield Finding((*path, "to", index, "paths", position), "LM2045", facts)


def _check_issuers(found: model.PolicySet) -> Iterator[Finding]:
    """(1), issuers: two declarations of one issuer would be two answers to whose word counts."""
    seen: set[str] = set()
    for place, item in enumerate(found.issuers):
        if item.issuer in seen:
            yield Finding(("issuers", place, "issuer"), "LM2061", {"issuer": item.issuer})
        seen.add(item.issuer)


def _check_modules(found: model.PolicySet) -> Iterator[Finding]:
    """(5), modules."""
    if len(found.rego) > MAX_MODULES:
        reason = f"a tree has at most {MAX_MODULES} modules"
        yield Finding(("rego", MAX_MODULES), "LM2600", {"line": 1, "reason": reason})
        return
    roots = frozenset((package_of(module.source) or "").partition(".")[0] for module in found.rego)
    seen: set[str] = set()
    for place, module in enumerate(found.rego):
        if MODULE_PATH.fullmatch(module.path) is None or module.path in seen:
            reason = "it has a path of its own, of letters, digits, `-`, `_` and `.`"
            yield Finding(("rego", place), "LM2600", {"line": 1, "reason": reason})
        seen.add(module.path)
        for refused in check_text(module.source, roots - {""}):
            yield Finding(("rego", place), "LM2600", {"line": refused.line, "reason": refused.reason})


def _check_ports(service: model.Service, rule: model.Rule, path: Path) -> Iterator[Finding]:
    """(4) Fields have a meaning where the rule applies (design D3).

    1. A port that is named is declared, and every field has a meaning on it.
    2. An allow that names no port has a port where all its fields have a meaning.
    3. A deny or pass that names no port has fields that have a meaning on every port: it never narrows by itself.
    4. A service that asks for the native data plane has no rule that reads requests on a grpc port.
    """
    protocols = {port.port: port.protocol for port in service.ports}
    yield from _undeclared(rule.to, set(protocols), service.name, path)
    # (4)
    unread = rule.reads_on("grpc", service) if service.dataplane == "native" else ()
    if unread:
        yield Finding(path, "LM2043", {"rule": rule.id, "service": service.name, "port": unread[0]})
    operations: tuple[model.Operation | None, ...] = rule.to if rule.to is not None else (None,)
    for index, operation in enumerate(operations):
        where: Path = path if operation is None else (*path, "to", index)
        ports = operation.ports if operation is not None else None
        facts: dict[str, object] = {"rule": rule.id, "service": service.name}
        without = [p for p in ports or protocols if p in protocols and not rule.has_meaning(operation, protocols[p])]
        if not without:
            continue
        facts["port"] = without[0]
        # (1)
        if ports is not None:
            yield Finding((*where, "ports"), "LM2039", facts)
        # (2)
        elif rule.effect is Effect.ALLOW:
            if len(without) == len(protocols):
                yield Finding(where, "LM2038", facts)
        # (3)
        else:
            yield Finding(where, "LM2037", {**facts, "effect": str(rule.effect)})


def _undeclared(
    operations: tuple[model.Operation, ...] | None, declared: Iterable[int], service: str, path: Path
) -> Iterator[Finding]:
    """Ports that are named but not declared by the service."""
    known = set(declared)
    for index, operation in enumerate(operations or ()):
        for position, port in enumerate(operation.ports or ()):
            if port not in known:
                facts = {"port": port, "service": service, "known": ", ".join(map(str, sorted(known)))}
                yield Finding((*path, "to", index, "ports", position), "LM2036", facts)
