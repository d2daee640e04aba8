"""A second opinion on plans: design D3 and the words of rows as formulas for z3, over every request of a large domain.

Nothing of the diagram, the classes or the words is used: a request is a value for each attribute out of a fixed list
(callers, ports, methods, hosts, paths of up to four segments, headers, tokens, addresses, moments, answers of custom
rules), more than 10^15 together, and z3 looks for one that two formulas tell apart. What a pattern means for one word
is asked of the pattern.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterable, Sequence
from typing import Any

import z3

from mesh.clock import parse_time
from mesh.request import Effect, Mode
from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine import model
from policyengine.attributes import address_of
from policyengine.belief import beliefs_between
from policyengine.canonical import PathPattern
from policyengine.reading import _network
from tests.policyengine.strategies import NOW, TD

SOURCES = (
    f"{TD}/ns/shop/sa/cart", f"{TD}/ns/shop/sa/web", f"{TD}/ns/shop/sa/x", f"{TD}/ns/shop", f"{TD}/ns/audit/sa/reader",
    f"{TD}/ns/x", f"{TD}/a", f"{TD}/ns/shop-evil/sa/web", "spiffe://other.test/a", "spiffe://third.test/a/b",
)  # fmt: skip
PORTS = (8080, 5432, 9000)
METHODS = ("GET", "POST", "PUT", "get")
HOSTS = ("db.corp.test", "x.corp.test", "x.y.corp.test", "corp.test", "b.test", "absent", "malformed")
WORDS = (
    "a", "b", "c", "12", "-1.5", "beef", "x@y", "2026-01-31", "123e4567-e89b-12d3-a456-426614174000", "",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
)  # fmt: skip
HEADERS = {"x-role": ("admin", "user", "dev", "q"), "x-t": ("a", "q")}
CLAIMS: dict[str, tuple[Any, ...]] = {"roles": ("admin", 1, True, "dev", "q"), "sub": ("u1", "q")}
ISSUERS = ("https://idp.test", "https://evil.test")
BELIEFS = ("both", "before", "now")
ADDRESSES = ("10.1.2.3", "10.1.3.1", "10.9.9.9", "fd00::1", "2001:db8::1", "192.0.2.1", "::ffff:10.1.2.3")
MOMENTS = tuple(NOW + dt.timedelta(minutes=minutes) for minutes in (*range(0, 3000, 59), 100_000, 500_000))
LONGEST = 4

Truth = tuple[Any, Any]
"""Definitely true and definitely false, as formulas."""


def known(holds: Any) -> Truth:
    return holds, z3.Not(holds)


NEVER: Truth = (z3.BoolVal(False), z3.BoolVal(True))
ALWAYS: Truth = (z3.BoolVal(True), z3.BoolVal(False))
UNKNOWN: Truth = (z3.BoolVal(False), z3.BoolVal(False))


def all_of(*truths: Truth) -> Truth:
    return z3.And([true for true, _ in truths]), z3.Or([false for _, false in truths])


def any_of(*truths: Truth) -> Truth:
    return z3.Or([true for true, _ in truths]), z3.And([false for _, false in truths])


class Domain:
    """The attributes of a request as variables, and what they mean."""

    def __init__(self) -> None:
        self.bounds: list[Any] = []
        self.source = self._choice("source", len(SOURCES))
        self.port = self._choice("port", len(PORTS))
        self.method = self._choice("method", len(METHODS))
        self.host = self._choice("host", len(HOSTS))
        self.length = self._choice("length", LONGEST)
        self.words = [self._choice(f"word{place}", len(WORDS)) for place in range(LONGEST)]
        for place in range(LONGEST - 1):  # only the last segment may be empty
            self.bounds.append(z3.Or(self.length == place, self.words[place] != WORDS.index("")))
        self.headers = {name: self._choice(name, len(values) + 2) for name, values in HEADERS.items()}
        self.token = self._choice("token", len(ISSUERS) + 2)
        self.claims = {name: [z3.Bool(f"{name}{i}") for i in range(len(found))] for name, found in CLAIMS.items()}
        self.unreadable = {name: z3.Bool(f"unreadable-{name}") for name in CLAIMS}
        self.belief = self._choice("belief", len(BELIEFS))
        self.version: str | None = None  # whose reading of tokens formulas are about; None is whoever believes them
        self.peer = self._choice("peer", len(ADDRESSES))
        self.forwarded = self._choice("forwarded", len(ADDRESSES) + 2)
        self.moment = self._choice("moment", len(MOMENTS) + 1)
        self.rego = self._choice("rego", 3)
        self.rego_before = self._choice("rego-before", 3)
        self.is_parsed = self.port != PORTS.index(5432)

    def _choice(self, name: str, count: int) -> Any:
        found = z3.BitVec(name, 8)
        self.bounds.append(z3.ULT(found, count))
        return found

    def among(self, variable: Any, places: Iterable[int]) -> Any:
        return z3.Or([variable == place for place in places])

    def read(self, truth: Truth) -> Truth:
        """What is read of a request is unknown on a connection."""
        return z3.And(self.is_parsed, truth[0]), z3.And(self.is_parsed, truth[1])

    def named(self, patterns: Iterable[SpiffePattern]) -> Any:
        listed = tuple(patterns)
        return self.among(
            self.source, (i for i, text in enumerate(SOURCES) if any(p.matches(SpiffeId.parse(text)) for p in listed))
        )

    def ports(self, ports: Iterable[int]) -> Any:
        return self.among(self.port, (PORTS.index(port) for port in ports if port in PORTS))

    def methods(self, methods: Iterable[str]) -> Any:
        return self.among(self.method, (METHODS.index(method) for method in methods if method in METHODS))

    def hosts(self, names: Sequence[str]) -> Any:
        def holds(host: str) -> bool:
            return host in names or f"*.{host.partition('.')[2]}" in names

        return self.among(self.host, (i for i, host in enumerate(HOSTS) if i < len(HOSTS) - 2 and holds(host)))

    def path(self, pattern: PathPattern) -> Any:
        count = len(pattern.segments)
        fits = [
            self.among(self.words[place], (i for i, word in enumerate(WORDS) if segment.matches(word)))
            for place, segment in enumerate(pattern.segments[:LONGEST])
        ]
        if count > LONGEST:
            return z3.BoolVal(False)
        length = z3.UGE(self.length, count) if pattern.subtree else self.length == count - 1
        return z3.And(length, *fits)

    def header(self, name: str, allowed: Sequence[str]) -> Truth:
        values, variable = HEADERS[name], self.headers[name]
        malformed = variable == len(values) + 1
        holds = self.among(variable, (i for i, value in enumerate(values) if value in allowed))
        return self.read((holds, z3.And(z3.Not(holds), z3.Not(malformed))))

    def lost(self) -> Any:
        """Whether the token is one that the version does not believe."""
        if self.version is None:
            return z3.BoolVal(False)
        is_other = z3.And(self.belief != BELIEFS.index("both"), self.belief != BELIEFS.index(self.version))
        return z3.And(z3.ULT(self.token, len(ISSUERS)), is_other)

    def issuer(self, issuer: str) -> Truth:
        unknown = z3.Or(self.token == len(ISSUERS) + 1, self.lost())
        holds = z3.And(self.token == ISSUERS.index(issuer), z3.Not(unknown))
        return self.read((holds, z3.And(z3.Not(holds), z3.Not(unknown))))

    def claim(self, name: str, allowed: Sequence[Any]) -> Truth:
        none = self.token == len(ISSUERS)
        unknown = z3.Or(self.token == len(ISSUERS) + 1, self.unreadable[name], self.lost())
        has = [
            self.claims[name][i]
            for i, value in enumerate(CLAIMS[name])
            if any(type(value) is type(choice) and value == choice for choice in allowed)
        ]
        holds = z3.And(z3.Not(none), z3.Not(unknown), z3.Or(has))
        return self.read((holds, z3.Or(none, z3.And(z3.Not(unknown), z3.Not(z3.Or(has))))))

    def token_of(self, condition: model.ClaimsCondition) -> Truth:
        """Claims of another issuer are false, whatever they are."""
        return all_of(self.issuer(condition.issuer), *(self.claim(name, values) for name, values in condition.values))

    def address(self, name: str, networks: Sequence[Any]) -> Truth:
        variable = self.peer if name == "peer_ip" else self.forwarded
        holds = self.among(variable, (i for i, text in enumerate(ADDRESSES) if _is_in(text, networks)))
        if name == "peer_ip":
            return known(holds)
        unknown = variable == len(ADDRESSES) + 1
        return self.read((holds, z3.And(z3.Not(holds), z3.Not(unknown))))

    def hours(self, hours: model.Hours) -> Truth:
        zone = zoneinfo.ZoneInfo(hours.tz)
        inside = [i for i, moment in enumerate(MOMENTS) if hours.contains(moment.astimezone(zone).time())]
        holds = self.among(self.moment, inside)
        return holds, z3.And(z3.Not(holds), self.moment != len(MOMENTS))

    def before(self, end: dt.datetime) -> Any:
        return self.among(self.moment, (i for i, moment in enumerate(MOMENTS) if moment < end))

    def differs(self) -> Any:
        """Whether the versions see different claims, so that a custom rule may say different things of them."""
        has_token = z3.And(self.is_parsed, z3.ULT(self.token, len(ISSUERS)))
        return z3.And(has_token, self.belief != BELIEFS.index("both"))

    def answer(self, version: str | None) -> Any:
        """What a custom rule says in a version: one answer where both see the same."""
        return z3.If(self.differs(), self.rego_before, self.rego) if version == "before" else self.rego

    def custom(self, version: str | None = None) -> Truth:
        found = self.answer(version or self.version)
        return found == 0, found == 1


def _is_in(text: str, networks: Sequence[Any]) -> bool:
    address = address_of(text)
    assert address is not None
    return any(address.version == network.version and address in network for network in networks)


# ---------------------------------------------------------------------- design D3


def allowed(policies: model.PolicySet, domain: Domain) -> Any:
    """The requests to `db` that go through."""
    service = policies.service_for("db")
    assert service is not None
    observed = z3.BoolVal(False)
    if service.mode is Mode.OBSERVE and service.until is not None:
        observed = domain.before(service.until)
    found = observed  # nothing matches anywhere: the default deny, which `observe` overrides
    for tier in reversed(model.TIERS):
        rules: list[tuple[model.Rule, Any]] = [
            (rule, z3.BoolVal(True))
            for policy in policies.policies
            if policy.tier == tier and policy.service == "db"
            for rule in policy.rules
        ]
        if tier == "app":
            rules += [(grant.as_rule(), domain.before(grant.until)) for grant in policies.exceptions]
        by_effect = {
            effect: z3.Or([z3.And(_applies(policies, r, domain), on) for r, on in rules if r.effect is effect])
            for effect in Effect
        }
        denied = z3.BoolVal(False) if tier == "guardrail" else observed
        found = z3.If(
            by_effect[Effect.DENY],
            denied,
            z3.If(by_effect[Effect.PASS], found, z3.Or(by_effect[Effect.ALLOW], found)),
        )
    return found


def _applies(policies: model.PolicySet, rule: model.Rule, domain: Domain) -> Any:
    truth = all_of(
        _among(policies, rule.from_, domain),
        ALWAYS if rule.to is None else any_of(*(_operation(entry, domain) for entry in rule.to)),
        ALWAYS if rule.when is None else _conditions(rule.when, domain),
    )
    exempt: Truth = NEVER
    if rule.unless is not None:
        exempt = all_of(
            ALWAYS if rule.unless.from_ is None else _among(policies, rule.unless.from_, domain),
            ALWAYS if rule.unless.when is None else _conditions(rule.unless.when, domain),
        )
    if rule.effect is Effect.ALLOW:
        return z3.And(truth[0], exempt[1])
    return z3.And(z3.Not(truth[1]), z3.Not(exempt[0]))


def _among(policies: model.PolicySet, principals: tuple[model.Principal, ...], domain: Domain) -> Truth:
    meant = policies.expand(principals)
    if meant.is_any:
        return ALWAYS
    holds = domain.named(meant.patterns)
    return (holds, z3.BoolVal(False)) if meant.incomplete else known(holds)


def _operation(operation: model.Operation, domain: Domain) -> Truth:
    truths: list[Truth] = [ALWAYS]
    if operation.ports is not None:
        truths.append(known(domain.ports(operation.ports)))
    if operation.methods is not None:
        truths.append(domain.read(known(domain.methods(operation.methods))))
    if operation.hosts is not None:
        holds = domain.hosts([str(pattern) for pattern in operation.hosts])
        malformed = domain.host == HOSTS.index("malformed")
        truths.append(domain.read((holds, z3.And(z3.Not(holds), z3.Not(malformed)))))
    if operation.paths is not None:
        truths.append(domain.read(known(z3.Or([domain.path(pattern) for pattern in operation.paths]))))
    return all_of(*truths)


def _conditions(when: model.Conditions, domain: Domain) -> Truth:
    truths: list[Truth] = [ALWAYS]
    if when.claims is not None:
        truths.append(domain.token_of(when.claims))
    truths += [domain.header(name, values) for name, values in when.headers or ()]
    if when.peer_ip is not None:
        truths.append(domain.address("peer_ip", when.peer_ip))
    if when.forwarded_ip is not None:
        truths.append(domain.address("forwarded_ip", when.forwarded_ip))
    if when.hours is not None:
        truths.append(domain.hours(when.hours))
    if when.rego is not None:
        truths.append(domain.custom())
    return all_of(*truths)


# ---------------------------------------------------------------------- the words of rows


def spoken(row: Any, domain: Domain) -> Any:
    """The requests that a row speaks of."""

    def among(text: str) -> Any:
        return z3.BoolVal(True) if text == "any" else domain.named([SpiffePattern.parse(text)])

    def said(words: dict[str, Any]) -> Any:
        """What a row, or an entry of it, says of callers it leaves out, circumstances and the request."""
        parts = [circumstances(words, domain), *(z3.Not(among(text)) for text in words.get("source_not_in", []))]
        if not row.methods:
            return z3.And(parts)
        if words.get("methods", ["*"]) != ["*"]:
            parts.append(domain.methods(words["methods"]))
        parts.append(z3.Not(domain.methods(words.get("method_not_in", []))))
        parts += about_paths(words, domain)
        if "hosts" in words:
            parts.append(domain.among(domain.host, (i for i, host in enumerate(HOSTS) if _is_meant(host, words))))
        return z3.And(parts)

    when = row.when
    parts = [domain.ports([row.port]), among(row.source)]
    parts.append(said({**when, "methods": list(row.methods), "paths": row.paths}))
    parts += [z3.Or([among(text) for text in when["source_in"]])] if "source_in" in when else []
    if "by_source" in when:
        parts.append(z3.Or([z3.And(among(item["source"]), said(item)) for item in when["by_source"]]))
    return z3.And(parts)


def about_paths(words: dict[str, Any], domain: Domain) -> list[Any]:
    """What a row, or one caller's entry in it, says of paths."""

    def on(text: str) -> Any:
        return domain.path(PathPattern.parse(text))

    parts = [z3.Or([on(text) for text in words["paths"]])] if "paths" in words else []
    parts += [z3.Not(on(text)) for text in words.get("path_not_in", [])]
    return parts + [on(text) for text in words.get("path_also_in", [])]


def _is_meant(host: str, when: dict[str, Any]) -> bool:
    """Of the names that hold a host, the narrowest says whether it is meant."""
    names = [host, f"*.{host.partition('.')[2]}", "*"]
    names = ["malformed"] if host == "malformed" else ["*"] if host == "absent" else names
    listed = {*when["hosts"], *when.get("host_not_in", [])}
    return next((name for name in names if name in listed), None) in when["hosts"]


def circumstances(when: dict[str, Any], domain: Domain) -> Any:
    parts: list[Any] = []
    if "time" in when:
        inside = [
            i
            for i, moment in enumerate(MOMENTS)
            if any(
                parse_time(item["from"]) <= moment and (item["until"] is None or moment < parse_time(item["until"]))
                for item in when["time"]
            )
        ]
        parts.append(domain.among(domain.moment, inside))
    if "believed" in when:
        parts.append(domain.belief == BELIEFS.index(when["believed"]))
    parts += [_unreadable(name, domain) for name in when.get("unknown", [])]
    parts += [z3.Not(circumstances(item, domain)) for item in when.get("not", [])]
    parts += [circumstances(item, domain) for item in when.get("also", [])]
    parts += [domain.header(name, values)[0] for name, values in when.get("headers", {}).items()]
    for name, values in when.get("claims", {}).items():
        parts.append(domain.issuer(values)[0] if name == "issuer" else domain.claim(name, values)[0])
    for name in ("peer_ip", "forwarded_ip"):
        if name in when:
            parts.append(domain.address(name, [_network(text) for text in when[name]])[0])
    if "hours" in when:
        start, end = (dt.time.fromisoformat(when["hours"][key]) for key in ("from", "to"))
        parts.append(domain.hours(model.Hours(tz=when["hours"]["tz"], start=start, end=end))[0])
    if "rego" in when:
        parts.append(domain.custom("now")[0])
    if "rego_before" in when:
        parts.append(domain.custom("before")[0])
    return z3.And(parts)


def _unreadable(name: str, domain: Domain) -> Any:
    if name == "time":
        return domain.moment == len(MOMENTS)
    if name.startswith("headers."):
        key = name.removeprefix("headers.")
        return domain.headers[key] == len(HEADERS[key]) + 1
    if name.startswith(("rego.", "rego_before.")):
        return domain.answer("before" if name.startswith("rego_before.") else "now") == 2
    if name == "claims":
        return domain.token == len(ISSUERS) + 1
    if name.startswith("claims."):
        unknown = domain.token == len(ISSUERS) + 1
        return z3.Or(unknown, z3.And(domain.token != len(ISSUERS), domain.unreadable[name.removeprefix("claims.")]))
    assert name == "forwarded_ip"
    return domain.forwarded == len(ADDRESSES) + 1


def disagreement(old: model.PolicySet, new: model.PolicySet, found: Any) -> str | None:
    """A request on which a plan and D3 disagree, in words; None when z3 proves that there is none."""
    domain = Domain()
    for place, issuer in enumerate(ISSUERS):  # kinds of tokens that there are not
        kinds = beliefs_between(old, new).get(issuer, ("both",))
        domain.bounds.append(z3.Implies(domain.token == place, domain.among(domain.belief, map(BELIEFS.index, kinds))))
    domain.version = "before"
    before = allowed(old, domain)
    domain.version = "now"
    after = allowed(new, domain)
    domain.version = None
    gained = z3.Or([spoken(row, domain) for row in found.newly_allowed])
    lost = z3.Or([spoken(row, domain) for row in found.newly_denied])
    solver = z3.SolverFor("QF_BV")
    solver.add(domain.bounds)
    for version in (old, new):  # other ports are outside of plans
        service = version.service_for("db")
        assert service is not None
        solver.add(domain.ports([port.port for port in service.ports]))
    wrong = z3.Or(gained != z3.And(z3.Not(before), after), lost != z3.And(before, z3.Not(after)))
    solver.add(wrong)
    answer = solver.check()
    assert answer != z3.unknown, solver.reason_unknown()
    return None if answer == z3.unsat else str(solver.model())
