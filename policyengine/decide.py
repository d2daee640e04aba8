"""When a request is allowed, and why: the index that enforcers ask.

A request is allowed when, tier by tier, the first grant that matches it is an allow (`ServiceIndex` has the steps). The
cost of a decision does not grow with the number of rules: grants are found by caller, port, method, host and path,
each by a look-up, and only what is left is tested for its conditions. The index agrees with
`policyengine.reference` on every request; tests show it on generated ones. It reads no files and no clock, and a
bug in it denies.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.request import Decision, Effect, Mode, Request
from policyengine import model
from policyengine.attributes import USUAL_METHODS, Facts, Fields, Truth, all_of, holds, read_fields, read_host
from policyengine.callers import Callers, Reach
from policyengine.canonical import plain_segments
from policyengine.compiled import Compiled
from policyengine.ir import Grant
from policyengine.operationtable import Entry, Trie
from policyengine.parts import Part, Parts
from policyengine.reference import (
    ALLOWED_BY_RULE,
    AMBIGUOUS,
    DEFAULT_DENY,
    DENIED_BY_RULE,
    NO_IDENTITY,
    UNDECLARED_PORT,
    UNKNOWN_SERVICE,
    time_of,
)

INTERNAL_ERROR = "LM2390"
_SERVICES_REMEMBERED = 4096
Tries = tuple[Trie, ...]
_Doors = Mapping[int, Mapping[str | None, Mapping[str | None, Reach]]]
_ALLOW, _DENY, _PASS = Effect.ALLOW, Effect.DENY, Effect.PASS


class _Answers:
    """The decisions of one service under one mode; each is built once (``made``, by what decides)."""

    def __init__(self, snapshot: str, mode: Mode) -> None:
        self._snapshot, self._mode = snapshot, mode
        self.made: dict[Entry, Decision] = {}
        lenient = _ALLOW if mode is Mode.OBSERVE else _DENY
        self.ambiguous = self._nothing(AMBIGUOUS, _DENY)
        self.ambiguous_let_through = self._nothing(AMBIGUOUS, lenient)
        self.no_identity = self._nothing(NO_IDENTITY, _DENY)
        self.undeclared_port = self._nothing(UNDECLARED_PORT, lenient)
        self.default_deny = self._nothing(DEFAULT_DENY, lenient)

    def _nothing(self, code: str, effect: Effect) -> Decision:
        """A decision that no rule makes."""
        return Decision(
            effect=effect, policy_effect=_DENY, mode=self._mode, snapshot=self._snapshot, tier="", policy="", rule="",
            code=code,
        )  # fmt: skip

    def by(self, entry: Entry) -> Decision:
        """Make the decision that a grant makes; `observe` overrides denies below the guardrails."""
        allows = entry.effect is _ALLOW
        lenient = self._mode is Mode.OBSERVE and entry.tier > 0
        found = self.made[entry] = Decision(
            effect=_ALLOW if allows or lenient else _DENY,
            policy_effect=_ALLOW if allows else _DENY,
            mode=self._mode,
            snapshot=self._snapshot,
            tier=entry.grant.tier,
            policy=entry.grant.policy,
            rule=entry.grant.rule,
            code=ALLOWED_BY_RULE if allows else DENIED_BY_RULE,
        )
        return found

    def refused(self, entry: Entry, code: str) -> Decision:
        """A deny of a grant that `observe` is reported for and does not help against."""
        return Decision(
            effect=_DENY,
            policy_effect=_DENY,
            mode=self._mode,
            snapshot=self._snapshot,
            tier=entry.grant.tier,
            policy=entry.grant.policy,
            rule=entry.grant.rule,
            code=code,
        )


class Plainly:
    """Decides the requests of one caller with one method and host on one port, of which only the path differs.

    For services whose rules have no condition: then this says what `ServiceIndex.decide` says.
    """

    __slots__ = ("_answers", "_is_declared", "_tries")

    def __init__(self, tries: Tries, answers: _Answers, *, is_declared: bool) -> None:
        self._tries, self._answers, self._is_declared = tries, answers, is_declared

    def decide(self, path: tuple[str, ...]) -> Decision | None:
        """Decide about a canonical path, by steps 2 and 3 of `ServiceIndex.decide`; None where a condition is met."""
        best: list[Entry | None] = [None, None, None]
        for trie in self._tries:
            for leaf in trie.find(path):
                for entry in leaf:
                    if entry.is_conditional:
                        return None
                    held = best[entry.tier]
                    if (held is None or entry.rank < held.rank) and (self._is_declared or entry.effect is not _ALLOW):
                        best[entry.tier] = entry
        answers = self._answers
        for found in best:
            if found is not None and found.effect is not _PASS:
                return answers.made.get(found) or answers.by(found)
        return answers.default_deny if self._is_declared else answers.undeclared_port


class ServiceIndex:
    """The index of one called service; the same callers under another snapshot's name are another index."""

    def __init__(
        self,
        service: model.Service,
        callers: Callers,
        headers: frozenset[str],
        snapshot: str,
        custom: model.CustomRules | None = None,
    ) -> None:
        self.callers = callers
        self._custom = custom
        self._until = service.until if service.mode is Mode.OBSERVE else None
        self._protocols, self._headers = {port.port: port.protocol for port in service.ports}, headers
        self._path_case = service.path_case
        self._enforced, self._observed = _Answers(snapshot, Mode.ENFORCE), _Answers(snapshot, Mode.OBSERVE)
        self._doors = _doors(service, callers) if not headers and self._until is None else {}

    def decide(self, request: Request) -> Decision:
        """Decide a request to this service: `decide_in_full` without the steps that nearly every request does not need.

        1. That is a request of which nothing is unknown, on a declared port that is parsed, by a usual method, of a
           caller with an identity that was here before, with a path that is canonical as it stands and one Host.
        2. What is left of `decide_in_full` is to find the entries of its place, and the first of them by rank.
        3. Several entries are compared as `Plainly` does it; with a condition, and all others, are decided in full.
        """
        # (1)
        door = self._doors.get(request.port)
        if door is None or request.unknown or request.protocol == "tcp":
            return self.decide_in_full(request)
        remembered, source, target = door.get(request.method), request.source, request.path
        if remembered is None or source is None or target is None:
            return self.decide_in_full(request)
        reach, path = remembered.get(source), plain_segments(target)
        if reach is None or path is None:
            return self.decide_in_full(request)
        host = read_host(request)
        if type(host) is not str:
            return self.decide_in_full(request)
        # (2)
        tries, by_host = reach
        for hosts in by_host:
            tries = (*tries, *hosts.by_host(host))
        found: Entry | None = None
        for trie in tries:
            for leaf in trie.find(path):
                # (3)
                if found is not None or len(leaf) > 1 or leaf[0].is_conditional:
                    plainly = Plainly(tries, self._enforced, is_declared=True)
                    return plainly.decide(path) or self.decide_in_full(request)
                found = leaf[0]
        answers = self._enforced
        if found is None or found.effect is _PASS:
            return answers.default_deny
        return answers.made.get(found) or answers.by(found)

    def decide_in_full(self, request: Request) -> Decision:
        """Decide a request to this service by all steps (design D3).

        1. Attributes are read; what is ambiguous refuses the request before any rule, and under `observe` only a
           deny of the guardrail tier still can.
        2. In each tier the grant of the lowest rank that matches decides: deny, then pass, then allow.
        3. The first tier that denies or allows ends it; pass, or no match, goes on; no match anywhere denies.
        4. `observe` overrides every deny but the guardrail tier's and that of a caller without identity.
        """
        # (1)
        protocol = self._protocols.get(request.port)
        fields = read_fields(request, protocol or request.protocol, self._headers, self._path_case)
        is_known, ambiguous = fields[0] is not None, fields[5]
        answers = self._enforced if self._until is None else self._answers(request)
        if ambiguous:
            if answers is self._enforced or not is_known:
                return answers.ambiguous
            guardrail = self._match(request, fields, is_declared=protocol is not None)[0]
            if guardrail is None or guardrail.effect is not _DENY:
                return answers.ambiguous_let_through
            return answers.refused(guardrail, AMBIGUOUS)
        # (2)
        for entry in self._match(request, fields, is_declared=protocol is not None):
            # (3)
            if entry is not None and entry.effect is not _PASS:
                # (4)
                if not is_known:
                    return answers.refused(entry, DENIED_BY_RULE)
                return answers.made.get(entry) or answers.by(entry)
        if not is_known:
            return answers.no_identity
        return answers.undeclared_port if protocol is None else answers.default_deny

    def plainly(self, request: Request) -> Plainly | None:
        """What decides all requests that differ from this one in their path alone, whatever that is.

        None where it takes more than that: a caller without identity, what is ambiguous, unknown or not parsed, headers
        that policies read, `observe`, and paths whose case does not matter.
        """
        protocol = self._protocols.get(request.port)
        source, is_parsed, method, host, path, ambiguous = read_fields(
            request, protocol or request.protocol, self._headers, self._path_case
        )
        is_odd = source is None or not is_parsed or method is None or host is None or path is None or ambiguous
        if is_odd or self._headers or self._until is not None or self._path_case != "sensitive":
            return None
        return Plainly(self._tries(request, method, host), self._enforced, is_declared=protocol is not None)

    def _tries(self, request: Request, method: str | None, host: str | None, *, is_known: bool = True) -> Tries:
        """Where the grants stand that a caller, a port, a method and a host may match."""
        tries, by_host = self.callers.reach(request.source if is_known else None, request.port, method)
        for hosts in by_host:
            tries = (*tries, *hosts.by_host(host))
        return tries

    def _answers(self, request: Request) -> _Answers:
        """The decisions under the mode that holds at the request's time; an unknown time ends `observe`."""
        now = time_of(request)
        observed = now is not None and self._until is not None and now < self._until
        return self._observed if observed else self._enforced

    def _match(self, request: Request, fields: Fields, *, is_declared: bool) -> list[Entry | None]:
        """Per tier, the entry of the lowest rank that matches; allows hold on declared ports only."""
        source, _, method, host, path, _ = fields
        tries = self._tries(request, method, host, is_known=source is not None)
        facts: Facts | None = None
        best: list[Entry | None] = [None, None, None]
        for trie in tries:
            for leaf in trie.find(path):
                for entry in leaf:
                    held = best[entry.tier]
                    if held is not None and held.rank <= entry.rank:
                        continue
                    if not is_declared and entry.effect is _ALLOW:
                        continue
                    if entry.is_conditional:
                        if facts is None:
                            facts = Facts(request, *fields, self._custom)
                        if not conditions_apply(entry.grant, facts):
                            continue
                    best[entry.tier] = entry
        return best


def _doors(service: model.Service, callers: Callers) -> _Doors:
    """What callers remember, by the ports of a service that are parsed and the usual methods."""
    if service.path_case != "sensitive":
        return {}
    return {
        port.port: {method: callers.by_source(port.port, method) for method in USUAL_METHODS}
        for port in service.ports
        if port.protocol != "tcp"
    }


def conditions_apply(grant: Grant, facts: Facts) -> bool:
    """Whether a grant whose caller and operation matched applies, given its conditions.

    1. An exception ends; an unknown time ends it.
    2. `when` is true for an allow, not false for a deny or pass.
    3. `unless` is definitely false for an allow, not definitely true for a deny or pass.
    """
    allows = grant.effect is _ALLOW
    # (1)
    if grant.until is not None:
        now = time_of(facts.request)
        if now is None or now >= grant.until:
            return False
    # (2)
    if grant.when is not None:
        truth = holds(grant.when, facts)
        if truth is False or (allows and truth is None):
            return False
    # (3)
    if grant.unless_callers is None and grant.unless_when is None:
        return True
    exempt: Truth = all_of(
        True if grant.unless_callers is None else _is_among(grant.unless_callers, facts),
        True if grant.unless_when is None else holds(grant.unless_when, facts),
    )
    return exempt is False if allows else exempt is not True


def _is_among(callers: model.Principals, facts: Facts) -> Truth:
    if facts.source is None:
        return False
    if callers.contains(facts.source):
        return True
    return None if callers.incomplete else False


class Index:
    """The index of a policy set; a service's part is built when it is first asked for.

    ``before`` is the index of the set that was in force: of what it compiled, all that did not change is kept, rule by
    rule, so that a change costs what it changes.
    """

    def __init__(self, policies: model.PolicySet, snapshot: str, before: Index | None = None) -> None:
        self._policies = policies
        self._snapshot = snapshot
        self._parts = Parts(policies)
        self._compiled: dict[str, Compiled] = {}
        self._asked: dict[str, ServiceIndex] = {}
        self._unknown_service = _fixed(snapshot, UNKNOWN_SERVICE)
        self._internal_error = _fixed(snapshot, INTERNAL_ERROR)
        self.errors = 0
        if before is not None:
            self._keep(before)

    @property
    def snapshot(self) -> str:
        """The name of the snapshot, as decisions carry it."""
        return self._snapshot

    def decide(self, request: Request) -> Decision:
        """Decide a request. Never raises: a bug denies with LM2390, and `errors` counts it (design D13)."""
        try:
            service = self._asked.get(request.service) or self.service(request.service)
            return self._unknown_service if service is None else service.decide(request)
        except Exception:  # noqa: BLE001  the edge of the decision point: it fails closed
            self.errors += 1
            return self._internal_error

    def plainly(self, request: Request) -> Plainly | None:
        """What decides all requests to a plain service (`is_plain`) that differ from this one in their path alone."""
        service = self.service(request.service) if self.is_plain(request.service) else None
        return None if service is None else service.plainly(request)

    def part(self, name: str) -> Part | None:
        """What a service is decided by; None when there is no such service."""
        return self._parts.of(name)

    def is_plain(self, name: str) -> bool:
        """Whether a service's decisions hang on caller, port, method, host and path alone."""
        service = self._policies.service_for(name)
        part = None if service is None else self._parts.of(service.name)
        return part is None or (
            self._policies.custom is None
            and part.service.mode is not Mode.OBSERVE
            and not part.exceptions
            and all(rule.when is None and rule.unless is None for policy in part.policies for rule in policy.rules)
        )

    def service(self, name: str) -> ServiceIndex | None:
        """The index of a service by its name or a workload's SPIFFE ID, built on first use."""
        found = self._asked.get(name)
        if found is not None:
            return found
        service = self._policies.service_for(name)
        if service is None:
            return None
        built = self._asked.get(service.name) or self._build(service.name)
        if len(self._asked) >= _SERVICES_REMEMBERED:
            self._asked.clear()
        self._asked[name] = self._asked[service.name] = built
        return built

    def _keep(self, before: Index) -> None:
        """Take over what another index compiled, with what changed compiled anew."""
        for name, held in before._compiled.items():
            part = self._parts.of(name)
            if part is not None:
                self._compiled[name] = held.after(self._policies, part)

    def _build(self, name: str) -> ServiceIndex:
        """The index of a service by its name."""
        held = self._compiled.get(name)
        if held is None:
            part = self._parts.of(name)
            assert part is not None, "the service is in the policy set"
            held = self._compiled[name] = Compiled.of(self._policies, part)
        return ServiceIndex(held.part.service, held.callers, held.headers, self._snapshot, self._policies.custom)


def _fixed(snapshot: str, code: str) -> Decision:
    return Decision(
        effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot=snapshot, tier="", policy="",
        rule="", code=code,
    )  # fmt: skip
