"""When a request is allowed, and why: the index that enforcers ask.

A request is allowed when, tier by tier, the first grant that matches it is an allow (`Index.decide` has the steps). The
cost of a decision does not grow with the number of rules: grants are found by caller, port, method, host and path,
each by a look-up, and only what is left is tested for its conditions. The index agrees with
`policyengine.reference` on every request; tests show it on generated ones. It reads no files and no clock, and a
bug in it denies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh.request import Decision, Effect, Mode, Request
from mesh.spiffe import SpiffeId
from policyengine import model
from policyengine.attributes import ABSENT, Facts, Truth, all_of, holds, read
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.pathtrie import PathTrie
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
_CALLERS_REMEMBERED = 4096
_ANY_PORT = 0
_ANY_METHOD = ""
_UNKNOWN_METHOD = "?"  # no method has this name: `?` is no token character


class Entry:
    """A grant in the index; the decisions it makes are built once, when it first decides."""

    __slots__ = ("_decisions", "effect", "grant", "is_conditional", "rank", "tier")

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.rank = grant.rank
        self.tier = _TIER_PLACE[grant.tier]
        self.effect = grant.effect
        self.is_conditional = grant.is_conditional
        self._decisions: dict[Mode, Decision] = {}

    def decision(self, mode: Mode, snapshot: str) -> Decision:
        """The decision that this grant makes under a mode."""
        found = self._decisions.get(mode)
        if found is None:
            allows = self.effect is Effect.ALLOW
            found = self._decisions[mode] = Decision(
                effect=Effect.ALLOW if allows or (mode is Mode.OBSERVE and self.tier > 0) else Effect.DENY,
                policy_effect=Effect.ALLOW if allows else Effect.DENY,
                mode=mode,
                snapshot=snapshot,
                tier=self.grant.tier,
                policy=self.grant.policy,
                rule=self.grant.rule,
                code=ALLOWED_BY_RULE if allows else DENIED_BY_RULE,
            )
        return found


_TIER_PLACE = {tier: place for place, tier in enumerate(model.TIERS)}
Trie = PathTrie[Entry]


class _Hosts:
    """The grants of a caller, port and method, by host, then path."""

    __slots__ = ("always", "exact", "unknown", "wildcard")

    def __init__(self) -> None:
        self.always: Trie | None = None
        self.exact: dict[str, Trie] | None = None
        self.wildcard: dict[str, Trie] | None = None
        self.unknown: Trie | None = None

    def tries(self, host: str | None) -> Iterator[Trie]:
        """What may match a host; None is an unknown one."""
        if self.always is not None:
            yield self.always
        if host is None:
            if self.unknown is not None:
                yield self.unknown
        elif host != ABSENT:
            if self.exact is not None and host in self.exact:
                yield self.exact[host]
            if self.wildcard is not None:
                rest = host.partition(".")[2]
                if rest in self.wildcard:
                    yield self.wildcard[rest]

    def insert(self, entry: Entry, operation: model.Operation) -> None:
        """Put an entry where requests that it matches will find it (an unknown host: deny and pass only)."""
        if operation.hosts is None:
            self.always = _inserted(self.always, entry, operation)
            return
        for pattern in operation.hosts:
            if pattern.wildcard:
                self.wildcard = table = {} if self.wildcard is None else self.wildcard
            else:
                self.exact = table = {} if self.exact is None else self.exact
            table[pattern.name] = _inserted(table.get(pattern.name), entry, operation)
        if entry.effect is not Effect.ALLOW:
            self.unknown = _inserted(self.unknown, entry, operation)


def _inserted(trie: Trie | None, entry: Entry, operation: model.Operation) -> Trie:
    found: Trie = PathTrie() if trie is None else trie
    found.insert(entry, operation.paths, or_unknown=entry.effect is not Effect.ALLOW)
    return found


Callers = dict[tuple[int, str], _Hosts]


class ServiceIndex:
    """The index of one called service."""

    def __init__(self, form: ServiceForm, snapshot: str, custom: model.CustomRules | None = None) -> None:
        self.form = form
        self._custom = custom
        self._service = form.service
        self._snapshot = snapshot
        self._any: Callers = {}
        self._nobody: Callers = {}
        self._exact: dict[str, Callers] = {}
        self._below: dict[str, Callers] = {}
        self._found: dict[str, tuple[Callers, ...]] = {}
        for grant in form.grants:
            self._insert(Entry(grant))
        self._fixed = {
            (code, mode, effect): Decision(
                effect=effect, policy_effect=Effect.DENY, mode=mode, snapshot=snapshot, tier="", policy="", rule="",
                code=code,
            )
            for code in (DEFAULT_DENY, UNDECLARED_PORT, NO_IDENTITY, AMBIGUOUS)
            for mode in Mode
            for effect in (Effect.ALLOW, Effect.DENY)
        }  # fmt: skip

    def _insert(self, entry: Entry) -> None:
        """Put an entry under every class of callers that it speaks of."""
        callers = entry.grant.callers
        denies = entry.effect is not Effect.ALLOW
        classes: list[Callers] = []
        if callers.is_any or (callers.incomplete and denies):
            classes.append(self._any)
        else:
            for pattern in callers.patterns:
                table = self._below if pattern.subtree else self._exact
                classes.append(table.setdefault(str(pattern.id), {}))
        if entry.effect is Effect.DENY:
            classes.append(self._nobody)
        for found in classes:
            for operation in entry.grant.operations:
                methods: tuple[str, ...] = operation.methods or (_ANY_METHOD,)
                if denies and operation.methods is not None:
                    methods = (*methods, _UNKNOWN_METHOD)
                for port in operation.ports or (_ANY_PORT,):
                    for method in methods:
                        hosts = found.get((port, method))
                        if hosts is None:
                            hosts = found[port, method] = _Hosts()
                        hosts.insert(entry, operation)

    def _callers(self, source: SpiffeId | None) -> tuple[Callers, ...]:
        """The classes that a caller belongs to: itself, everything above it, and everybody."""
        if source is None:
            return (self._nobody,)
        text = str(source)
        found = self._found.get(text)
        if found is None:
            prefix = text
            classes = [self._any] if self._any else []
            if text in self._exact:
                classes.append(self._exact[text])
            while prefix.count("/") > 2:
                prefix = prefix.rpartition("/")[0]
                if prefix in self._below:
                    classes.append(self._below[prefix])
            found = tuple(classes)
            if len(self._found) >= _CALLERS_REMEMBERED:
                self._found.clear()
            self._found[text] = found
        return found

    def decide(self, request: Request) -> Decision:
        """Decide a request to this service (design D3).

        1. Attributes are read; what is ambiguous refuses the request before any rule, and under `observe` only a
           deny of the guardrail tier still can.
        2. In each tier the grant of the lowest rank that matches decides: deny, then pass, then allow.
        3. The first tier that denies or allows ends it; pass, or no match, goes on; no match anywhere denies.
        4. `observe` overrides every deny but the guardrail tier's and that of a caller without identity.
        """
        # (1)
        protocol = self.form.protocols.get(request.port)
        facts = read(request, protocol or request.protocol, self.form.headers)
        facts.custom = self._custom
        observed = self._service.mode is Mode.OBSERVE and self._service.is_observed(time_of(request))
        mode = Mode.OBSERVE if observed else Mode.ENFORCE
        lenient = Effect.ALLOW if observed and facts.source is not None else Effect.DENY
        if facts.ambiguous and lenient is Effect.DENY:
            return self._fixed[AMBIGUOUS, mode, Effect.DENY]
        # (2)
        best = self._match(facts, is_declared=protocol is not None)
        if facts.ambiguous:
            return self._ambiguous(best[0], mode)
        # (3)
        for entry in best:
            if entry is not None and entry.effect is not Effect.PASS:
                # (4)
                if facts.source is None:
                    return _refused(entry, mode, self._snapshot, DENIED_BY_RULE)
                return entry.decision(mode, self._snapshot)
        if facts.source is None:
            return self._fixed[NO_IDENTITY, mode, Effect.DENY]
        return self._fixed[UNDECLARED_PORT if protocol is None else DEFAULT_DENY, mode, lenient]

    def _ambiguous(self, guardrail: Entry | None, mode: Mode) -> Decision:
        """An ambiguous request to an observed service: a guardrail deny that could match it refuses it."""
        if guardrail is None or guardrail.effect is not Effect.DENY:
            return self._fixed[AMBIGUOUS, mode, Effect.ALLOW]
        return _refused(guardrail, mode, self._snapshot, AMBIGUOUS)

    def _match(self, facts: Facts, *, is_declared: bool) -> tuple[Entry | None, Entry | None, Entry | None]:
        """Per tier, the entry of the lowest rank that matches; allows hold on declared ports only."""
        best: list[Entry | None] = [None, None, None]
        method = _UNKNOWN_METHOD if facts.method is None else facts.method
        port, host, path = facts.request.port, facts.host, facts.path
        keys = ((port, method), (port, _ANY_METHOD), (_ANY_PORT, method), (_ANY_PORT, _ANY_METHOD))
        for callers in self._callers(facts.source):
            for key in keys:
                hosts = callers.get(key)
                if hosts is None:
                    continue
                for trie in hosts.tries(host):
                    for leaf in trie.find(path):
                        for entry in leaf:
                            held = best[entry.tier]
                            if held is not None and held.rank <= entry.rank:
                                continue
                            if not is_declared and entry.effect is Effect.ALLOW:
                                continue
                            if not entry.is_conditional or conditions_apply(entry.grant, facts):
                                best[entry.tier] = entry
        return best[0], best[1], best[2]


def conditions_apply(grant: Grant, facts: Facts) -> bool:
    """Whether a grant whose caller and operation matched applies, given its conditions.

    1. An exception ends; an unknown time ends it.
    2. `when` is true for an allow, not false for a deny or pass.
    3. `unless` is definitely false for an allow, not definitely true for a deny or pass.
    """
    allows = grant.effect is Effect.ALLOW
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


def _refused(entry: Entry, mode: Mode, snapshot: str, code: str) -> Decision:
    """A deny that `observe` is reported for and does not help against."""
    return Decision(
        effect=Effect.DENY,
        policy_effect=Effect.DENY,
        mode=mode,
        snapshot=snapshot,
        tier=entry.grant.tier,
        policy=entry.grant.policy,
        rule=entry.grant.rule,
        code=code,
    )


class Index:
    """The index of a policy set; a service's part is built when it is first asked for."""

    def __init__(self, policies: model.PolicySet, snapshot: str) -> None:
        self._policies = policies
        self._snapshot = snapshot
        self._built: dict[str, ServiceIndex] = {}
        self._asked: dict[str, ServiceIndex | None] = {}
        self._parts = _by_service(policies)
        self._unknown_service = _fixed(snapshot, UNKNOWN_SERVICE)
        self._internal_error = _fixed(snapshot, INTERNAL_ERROR)
        self.errors = 0

    @property
    def snapshot(self) -> str:
        """The name of the snapshot, as decisions carry it."""
        return self._snapshot

    def decide(self, request: Request) -> Decision:
        """Decide a request. Never raises: a bug denies with LM2390, and `errors` counts it (design D13)."""
        try:
            service = self.service(request.service)
            return self._unknown_service if service is None else service.decide(request)
        except Exception:  # noqa: BLE001  the edge of the decision point: it fails closed
            self.errors += 1
            return self._internal_error

    def service(self, name: str) -> ServiceIndex | None:
        """The index of a service by its name or a workload's SPIFFE ID, built on first use."""
        if name in self._asked:
            return self._asked[name]
        service = self._policies.service_for(name)
        if service is None:
            return None
        built = self._built.get(service.name)
        if built is None:
            built = ServiceIndex(normalise(self._parts[service.name], service), self._snapshot, self._policies.custom)
            self._built[service.name] = built
        if len(self._asked) >= _CALLERS_REMEMBERED:
            self._asked.clear()
        self._asked[name] = built
        return built


def _fixed(snapshot: str, code: str) -> Decision:
    return Decision(
        effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot=snapshot, tier="", policy="",
        rule="", code=code,
    )  # fmt: skip


def _by_service(policies: model.PolicySet) -> Mapping[str, model.PolicySet]:
    """What concerns each service, so that building one part does not read all policies."""
    about: dict[str, list[model.Policy]] = {service.name: [] for service in policies.services}
    granted: dict[str, list[model.ExceptionGrant]] = {service.name: [] for service in policies.services}
    for policy in policies.policies:
        if policy.service in about:
            about[policy.service].append(policy)
    for exception in policies.exceptions:
        if exception.service in granted:
            granted[exception.service].append(exception)
    return {
        name: model.PolicySet(
            services=policies.services,
            groups=policies.groups,
            policies=tuple(about[name]),
            exceptions=tuple(granted[name]),
        )
        for name in about
    }
