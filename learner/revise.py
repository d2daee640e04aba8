"""Existing policies brought to what was seen: kept as they are, and only extended or tightened, comments and all.

An extension goes into the rule that speaks of this caller alone, where it says nothing more than what was seen, and
else into a rule of its own. What a deny decides is never opened, and what hangs on conditions is left to people. The
edits are those of `policyengine.edits`; this module reads and writes no files.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from learner.history import Kind
from learner.judge import Judge
from learner.naming import owner_of, plain_name, service_names
from learner.proposal import Grant, ProposedService
from learner.propose import Lesson, evidence_of, grants_of, services_of
from mesh.problems import Invalid
from mesh.request import Effect
from policyengine import edits
from policyengine.model import Policy, PolicySet, Rule, Service


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a tree: what was done where, or (``kind`` is "left") what was left to people, and why."""

    kind: str
    service: str
    what: str
    file: str = ""
    policy: str = ""
    rule: str = ""

    def to_json(self) -> dict[str, str]:
        """The public JSON form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Tightening:
    """An allow, or some of its paths, that nothing needs any more. ``paths`` None is the whole rule."""

    policy: str
    rule: str
    service: str
    why: str
    paths: tuple[str, ...] | None = None


class Revision:
    """A tree that is being changed: its files by their path inside it, and what was changed so far."""

    def __init__(self, policies: PolicySet, texts: Mapping[str, str], places: Mapping[str, str]) -> None:
        """``places`` gives the path inside the tree of each file that spans name."""
        self.policies = policies
        self.texts = dict(texts)
        self.changes: list[Change] = []
        self._places = places
        self._named = {policy.name for policy in policies.policies}
        self._added: defaultdict[str, set[str]] = defaultdict(set)

    def extend(self, lesson: Lesson) -> None:
        """Allow what was seen, answered well and is not allowed yet.

        1. What a rule denies, and what hangs on a condition, is left to people.
        2. A service that the tree does not know gets a file of its own.
        3. Ports that it does not declare are declared; then callers get what they used, one rule each.
        """
        judge = Judge(self.policies)
        needed: defaultdict[str, list[Kind]] = defaultdict(list)
        for kind in lesson.kinds:
            found = judge(kind)
            if kind.protocol == "udp" or found.is_allowed:
                continue
            # (1)
            if found.is_uncertain or found.rule:
                service = self.policies.service_for(kind.destination)
                name = kind.destination if service is None else service.name
                why = (
                    "a condition decides, and no flow records it" if found.is_uncertain else f"rule {found.rule} denies"
                )
                text = f"{kind.source} {kind.method} {kind.path or kind.port} was seen and is not opened: {why}"
                self._left(name, text, found.policy, found.rule)
                continue
            needed[kind.destination].append(kind)
        unknown = {name for name in needed if self.policies.service_for(name) is None}
        # (2)
        for made in renamed(services_of(dataclasses.replace(lesson, kinds=_of(needed, unknown))), self.policies):
            file = _free(f"{made.name}.yaml", self.texts)
            self.texts[file] = made.to_yaml()
            self.changes.append(Change(kind="service added", service=made.name, what=made.identity, file=file))
        # (3)
        for identity in sorted(set(needed) - unknown):
            known = self.policies.service_for(identity)
            assert known is not None, "it is not among the unknown"
            self._extend_service(known, needed[identity], lesson)

    def tighten(self, found: Iterable[Tightening]) -> None:
        """Remove what nothing needs; what cannot be edited line by line is left to people."""
        for item in found:
            file = self._file(item.policy)
            if file is None:
                continue
            try:
                if item.paths is None:
                    self.texts[file] = self._without(self.texts[file], item)
                    self._did("rule removed", item.service, item.why, file, item.policy, item.rule)
                else:
                    self._keep_paths(file, item)
            except Invalid as problem:
                self._left(item.service, f"{item.why}, and the file is not edited: {problem}", item.policy, item.rule)

    def _without(self, text: str, item: Tightening) -> str:
        try:
            return edits.remove_rule(text, item.policy, item.rule)
        except Invalid:
            # the only rule of its policy
            edits.rule_in(text, item.policy, item.rule)
            return edits.remove_policy(text, item.policy)

    def _keep_paths(self, file: str, item: Tightening) -> None:
        gone = set(item.paths or ())
        rule = edits.rule_in(self.texts[file], item.policy, item.rule)
        operations = rule.get("to")
        for place, operation in enumerate(operations if isinstance(operations, list) else ()):
            paths = operation.get("paths") if isinstance(operation, dict) else None
            if isinstance(paths, list) and gone & set(paths) and set(paths) - gone:
                kept = [path for path in paths if path not in gone]
                self.texts[file] = edits.set_list(
                    self.texts[file], item.policy, item.rule, ("to", place, "paths"), kept
                )
                self._did("paths removed", item.service, item.why, file, item.policy, item.rule)

    def _extend_service(self, service: Service, kinds: Sequence[Kind], lesson: Lesson) -> None:
        file = self._place(service.span.file if service.span is not None else "")
        ports = {
            kind.port: kind.protocol for kind in sorted(kinds, key=lambda kind: kind.protocol == "tcp", reverse=True)
        }
        for port, protocol in sorted(ports.items()):
            if service.protocol_of(port) is None and file is not None:
                try:
                    self.texts[file] = edits.add_port(self.texts[file], service.name, port, protocol)
                    self._did("port added", service.name, f"{protocol} on port {port}", file)
                except Invalid as problem:
                    self._left(service.name, f"port {port} is not declared: {problem}")
        by_caller: defaultdict[str, list[Kind]] = defaultdict(list)
        plain: defaultdict[str, set[int]] = defaultdict(set)
        for kind in kinds:
            spoken = service.protocol_of(kind.port) or ports[kind.port]
            if spoken == kind.protocol:
                by_caller[kind.source].append(kind)
            elif spoken == "tcp":
                plain[kind.source].add(kind.port)
                by_caller[kind.source].append(kind)
            elif kind.protocol != "tcp":  # the plain connections of a port that is parsed are its transport
                self._left(service.name, f"{kind.source} spoke {kind.protocol} on port {kind.port}, which is {spoken}")
        for caller, found in sorted(by_caller.items()):
            # a port that is not parsed knows no methods and no paths
            opened = tuple(Grant(port=port) for port in sorted(plain[caller]))
            parsed = [kind for kind in found if kind.port not in plain[caller]]
            if grants := (*opened, *grants_of(parsed, lesson)):
                self._extend_caller(service, caller, grants, evidence_of(found))

    def _extend_caller(
        self, service: Service, caller: str, grants: tuple[Grant, ...], evidence: Mapping[str, object]
    ) -> None:
        """Extend the rule that speaks of a caller alone, path by path; the rest becomes a rule of its own."""
        own = _own_rule(self.policies.policies_for(service.name), caller)
        rest = [entry for entry in _entries(grants) if own is None or not self._extend_rule(*own, entry, service.name)]
        if own is not None and len(rest) < len(_entries(grants)):
            self._merge_evidence(*own, evidence)
        if rest:
            self._add_rule(service, caller, rest, evidence)

    def _extend_rule(self, policy: Policy, rule: Rule, entry: Mapping[str, object], service: str) -> bool:
        """Add paths to an operation that has exactly this port and these methods; never a product of two lists."""
        file, paths = self._file(policy.name), entry.get("paths")
        if file is None or not isinstance(paths, list):
            return False
        operations = edits.rule_in(self.texts[file], policy.name, rule.id).get("to")
        for place, operation in enumerate(operations if isinstance(operations, list) else ()):
            if (
                isinstance(operation, dict)
                and set(operation) == {"ports", "methods", "paths"}
                and operation["ports"] == entry["ports"]
                and sorted(operation["methods"]) == sorted(entry["methods"])  # type: ignore[call-overload]
            ):
                wanted = [*operation["paths"], *(path for path in paths if path not in operation["paths"])]
                try:
                    self.texts[file] = edits.set_list(
                        self.texts[file], policy.name, rule.id, ("to", place, "paths"), wanted
                    )
                except Invalid:
                    return False
                self._did("rule extended", service, ", ".join(map(str, paths)), file, policy.name, rule.id)
                return True
        return False

    def _merge_evidence(self, policy: Policy, rule: Rule, evidence: Mapping[str, object]) -> None:
        file = self._file(policy.name)
        if file is None:
            return
        old = json.loads(rule.evidence) if rule.evidence else {}
        text = self.texts[file]
        try:
            if rule.evidence:
                text = edits.remove_field(text, policy.name, rule.id, ("evidence",))
            self.texts[file] = edits.add_field(text, policy.name, rule.id, ("evidence",), merged(old, evidence))
        except Invalid:
            return  # an evidence in a form that is not edited line by line stays as it is

    def _add_rule(
        self, service: Service, caller: str, entries: list[dict[str, object]], evidence: Mapping[str, object]
    ) -> None:
        policies = [item for item in self.policies.policies_for(service.name) if item.tier == "app"]
        word = plain_name(caller.rpartition("/")[2])
        rule: dict[str, object] = {"id": f"from-{word}", "effect": "allow", "from": [caller], "to": entries}
        for policy in policies:
            file = self._file(policy.name)
            if file is None:
                continue
            taken = {item.id for item in policy.rules} | self._added[policy.name]
            rule["id"] = _free(f"from-{word}", taken)
            try:
                self.texts[file] = edits.add_rule(self.texts[file], policy.name, {**rule, "evidence": dict(evidence)})
            except Invalid:
                continue
            self._added[policy.name].add(str(rule["id"]))
            self._did("rule added", service.name, caller, file, policy.name, str(rule["id"]))
            return
        file = self._place(service.span.file if service.span is not None else "")
        if file is None:
            self._left(service.name, f"nobody knows in which file it stands, for {caller}")
            return
        name = _free(f"{service.name}-callers", self._named)
        self._named.add(name)
        document = edits.policy_text(
            name, service.owner or owner_of(caller), service.name, "app", {**rule, "evidence": dict(evidence)}
        )
        self.texts[file] = f"{self.texts[file].rstrip()}\n---\n{document}"
        self._did("policy added", service.name, caller, file, name, str(rule["id"]))

    def _file(self, policy: str) -> str | None:
        found = next((item for item in self.policies.policies if item.name == policy), None)
        span = None if found is None else found.span or next((rule.span for rule in found.rules if rule.span), None)
        return None if span is None else self._place(span.file)

    def _place(self, file: str) -> str | None:
        return self._places.get(file)

    def _did(self, kind: str, service: str, what: str, file: str, policy: str = "", rule: str = "") -> None:
        self.changes.append(Change(kind=kind, service=service, what=what, file=file, policy=policy, rule=rule))

    def _left(self, service: str, what: str, policy: str = "", rule: str = "") -> None:
        self.changes.append(Change(kind="left", service=service, what=what, policy=policy, rule=rule))


def renamed(services: Iterable[ProposedService], policies: PolicySet) -> tuple[ProposedService, ...]:
    """Proposed services under the names that a tree has for them, and under free ones where it has none."""
    found = list(services)
    known = {item.identity: policies.service_for(item.identity) for item in found}
    taken = [item.name for item in policies.services] + [
        policy.name.removesuffix("-callers") for policy in policies.policies
    ]
    names = service_names([identity for identity, service in known.items() if service is None], taken)
    return tuple(
        dataclasses.replace(item, name=service.name if (service := known[item.identity]) else names[item.identity])
        for item in found
    )


def merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """The evidence of a rule with more of it: counts and days add up, lists join, the first and last moments win."""
    out = {**old, **new}
    for name in ("replicas", "versions", "sensors", "examples", "decisions"):
        values = [*_list(old.get(name)), *_list(new.get(name))]
        out[name] = list(dict.fromkeys(values))[:20]
    for name in ("n", "days"):
        out[name] = _whole(old.get(name)) + _whole(new.get(name))
    if isinstance(old.get("first"), str):
        out["first"] = min(str(old["first"]), str(new.get("first")))
        out["last"] = max(str(old.get("last")), str(new.get("last")))
    return out


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _of(needed: Mapping[str, list[Kind]], names: Iterable[str]) -> tuple[Kind, ...]:
    return tuple(kind for name in sorted(names) for kind in needed[name])


def _own_rule(policies: Iterable[Policy], caller: str) -> tuple[Policy, Rule] | None:
    """The allow of the app tier that speaks of this caller alone, without a condition."""
    for policy in policies:
        for rule in policy.rules:
            is_plain = rule.effect is Effect.ALLOW and rule.when is None and rule.unless is None
            if policy.tier == "app" and is_plain and [str(item.name) for item in rule.from_] == [caller] and rule.to:
                return policy, rule
    return None


def _entries(grants: Iterable[Grant]) -> list[dict[str, object]]:
    """Grants as the operations of a file: methods that were used with the same paths share an entry."""
    found: list[dict[str, object]] = []
    for grant in grants:
        if not grant.operations:
            found.append({"ports": [grant.port]})
        by_paths: dict[tuple[str, ...], list[str]] = {}
        for method, paths in grant.operations:
            by_paths.setdefault(paths, []).append(method)
        found += [
            {"ports": [grant.port], "methods": methods, "paths": list(paths)} for paths, methods in by_paths.items()
        ]
    return found


def _free(name: str, taken: Iterable[str]) -> str:
    used = set(taken)
    stem, dot, suffix = name.partition(".yaml")
    candidate, number = name, 2
    while candidate in used:
        candidate, number = f"{stem}-{number}{dot}{suffix}", number + 1
    return candidate
