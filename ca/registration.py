"""Identity rules: attested facts → SPIFFE ID, by templates (design D7, contract "Identity").

A rule matches when ALL its selectors do; the most specific match wins, and a tie refuses. Single registration
entries are the special case of a rule without a template. This module issues nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import re
from collections.abc import Mapping

from ca.rulelayers import RuleLayers
from ca.ruletie import EntangledError
from mesh.problems import Diagnostic, Span
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain

Facts = Mapping[str, tuple[str, ...]]
TEMPLATE = re.compile(r"\{([^{}]*)\}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")
# the digests of a program; that of an image, or a label by such a name, says nothing of which program asks
DIGESTS = frozenset({"unix:sha256", "launch:sha256", "launch:script_sha256"})
DEFAULT_TTL = dt.timedelta(hours=1)
_RESERVED = "/limen/"
_MAX_KNOWN = 16_384


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One condition of a rule: a fact's name and the value it has, or the beginning of it."""

    name: str
    value: str
    prefix: bool

    @classmethod
    def parse(cls, name: str, text: str) -> Selector:
        """Read a selector's value: exact, or "*" at the end."""
        if text.endswith("*"):
            return cls(name=name, value=text[:-1], prefix=True)
        return cls(name=name, value=text, prefix=False)

    def matches(self, facts: Facts) -> bool:
        """Whether SOME value of the fact fits."""
        found = facts.get(self.name, ())
        if not self.prefix:
            return self.value in found
        return any(value.startswith(self.value) for value in found)

    @property
    def names_program(self) -> bool:
        """Whether it speaks of a program, not of whatever runs in a container: a whole digest, or a launch."""
        if self.name in DIGESTS:
            return not self.prefix
        return self.name.startswith("launch:") and self.value != ""

    def overlaps(self, other: Selector) -> bool:
        """Whether some value fits both."""
        if self.prefix and other.prefix:
            return self.value.startswith(other.value) or other.value.startswith(self.value)
        if self.prefix:
            return other.value.startswith(self.value)
        if other.prefix:
            return self.value.startswith(other.value)
        return self.value == other.value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRule:
    """One rule. ``ttl`` is how long an SVID of it lives; ``admin`` marks an identity for the server's API."""

    id: str
    match: tuple[Selector, ...]
    spiffe_id: str
    ttl: dt.timedelta = DEFAULT_TTL
    dns_names: tuple[str, ...] = ()
    hint: str = ""
    direct: bool = False
    admin: bool = False
    federates_with: tuple[TrustDomain, ...] = ()
    span: Span | None = dataclasses.field(default=None, compare=False)

    def fits(self, facts: Facts) -> bool:
        """Whether ALL its selectors match."""
        for selector in self.match:  # noqa: SIM110  a generator would cost as much again, for every candidate
            if not selector.matches(facts):
                return False
        return True

    @property
    def specificity(self) -> tuple[int, int]:
        """How specific it is: the number of selectors, then how many of them are exact."""
        return len(self.match), sum(not selector.prefix for selector in self.match)

    @property
    def is_container_bound(self) -> bool:
        """Whether it names no program: neither a digest nor a launch by the agent (design D7)."""
        return not any(selector.names_program for selector in self.match)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What a process may have, and by which rule."""

    spiffe_id: SpiffeId
    rule: str
    ttl: dt.timedelta
    dns_names: tuple[str, ...]
    hint: str
    direct: bool
    container_bound: bool
    federates_with: tuple[TrustDomain, ...] = ()
    admin: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no identity: a code and its facts."""

    code: str
    facts: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """What a rule said of a process, for `identity explain`."""

    rule: str
    matched: bool
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """All rules of a file; what it found for facts it knows again, since workloads come back with theirs.

    ``layers`` say it with less work than all the rules, when few are others than before.
    """

    rules: tuple[IdentityRule, ...] = ()
    layers: RuleLayers = dataclasses.field(default=None, repr=False, compare=False)  # type: ignore[assignment]  # set below
    _known: dict[tuple[object, ...], Entitlement | Refusal] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.layers is None:
            object.__setattr__(self, "layers", RuleLayers.of(self.rules))

    def entitle(self, facts: Facts, trust_domain: TrustDomain) -> Entitlement | Refusal:
        """Find the identity that facts give: by all rules, once for the very same facts."""
        key = (trust_domain.name, *facts.items())
        found = self._known.get(key)
        if found is None:
            found = self._entitle(facts, trust_domain)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = found
        return found

    def _entitle(self, facts: Facts, trust_domain: TrustDomain) -> Entitlement | Refusal:
        """Find the identity that facts give.

        1. A rule matches when ALL its selectors match.
        2. The most specific match wins: number of selectors, then exact before prefix; a tie refuses.
        3. Its template is filled with the facts; a missing, repeated or illegal value refuses, and nothing less
           specific takes its place; so does an identity that is one of Limen's own.
        """
        # (1)
        winners = [rule for rule in self.layers.candidates(facts) if rule.fits(facts)]
        if not winners:
            return Refusal(code="LM1210", facts={"count": str(len(self.rules))})
        # (2)
        if len(winners) > 1:
            best = max(rule.specificity for rule in winners)
            winners = [rule for rule in winners if rule.specificity == best]
        if len(winners) > 1:
            return Refusal(code="LM1211", facts={"rules": ", ".join(sorted(rule.id for rule in winners))})
        # (3)
        rule = winners[0]
        try:
            spiffe_id = SpiffeId.with_path(trust_domain, fill(rule.spiffe_id, facts, is_path=True))
            dns_names = tuple(fill(name, facts, is_path=False) for name in rule.dns_names)
        except (SpiffeIdError, ValueError) as err:
            return Refusal(code="LM1212", facts={"rule": rule.id, "reason": str(err)})
        if is_reserved(spiffe_id.path):
            return Refusal(code="LM1231", facts={"rule": rule.id, "spiffe_id": str(spiffe_id)})
        return Entitlement(
            spiffe_id=spiffe_id,
            rule=rule.id,
            ttl=rule.ttl,
            dns_names=dns_names,
            hint=rule.hint,
            direct=rule.direct,
            container_bound=rule.is_container_bound,
            federates_with=rule.federates_with,
            admin=rule.admin,
        )

    def explain(self, facts: Facts) -> tuple[RuleVerdict, ...]:
        """What each rule says of the facts, the most specific rules first."""
        return tuple(
            _verdict(rule, facts) for rule in sorted(self.rules, key=lambda rule: rule.specificity, reverse=True)
        )

    def conflicts(self) -> tuple[Diagnostic, ...]:
        """Every pair of equally specific rules that some process could match both, LM1213 at the later one.

        LM1215 for a file that is too entangled to know: then a tie is refused when a process matches it (LM1211).
        """
        found = []
        try:
            for place, later in sorted(self.layers.ties()):
                rule, other = self.rules[place], self.rules[later]
                facts: dict[str, object] = {"rule": other.id, "other": rule.id, "at": rule.span}
                found.append(Diagnostic(code="LM1213", span=other.span, facts=facts))
        except EntangledError:
            span = self.rules[0].span
            found.append(Diagnostic(code="LM1215", span=span, facts={"count": len(self.rules)}))
        return tuple(found)


def is_reserved(path: str) -> bool:
    """Whether a path, or what a template begins with, belongs to Limen itself."""
    return f"{path}/".startswith(_RESERVED)


def fill(template: str, facts: Facts, *, is_path: bool) -> str:
    """Fill a template with facts.

    Raises ValueError, with a sentence, for a selector without exactly one value, a value that is no segment, or a
    result that is no host name: what a process is called must never become a wildcard or another name.
    """
    filled = ""
    for place, part in enumerate(_parts(template)):
        # a text and a selector in turn
        filled += part if place % 2 == 0 else _value(part, facts, is_path=is_path)
    if not is_path and not is_host_name(filled):
        raise ValueError(f"`{filled[:80]}` is no lower-case host name")
    return filled


@functools.lru_cache(maxsize=4096)
def _parts(template: str) -> tuple[str, ...]:
    return tuple(TEMPLATE.split(template))


def _value(name: str, facts: Facts, *, is_path: bool) -> str:
    found = facts.get(name, ())
    if len(found) != 1:
        raise ValueError(f"{{{name}}} has {len(found)} values")
    if is_path and (not _SEGMENT.match(found[0]) or found[0] in {".", ".."}):
        raise ValueError(f"{{{name}}} is `{found[0][:80]}`, which is no path segment")
    return found[0]


def is_host_name(text: str) -> bool:
    """Whether a text is a lower-case host name: labels of letters, digits and inner dashes (RFC 1123 §2.1)."""
    return _HOST.match(text) is not None


def _verdict(rule: IdentityRule, facts: Facts) -> RuleVerdict:
    for selector in rule.match:
        if not selector.matches(facts):
            wanted = selector.value + ("*" if selector.prefix else "")
            has = ", ".join(facts.get(selector.name, ())) or "nothing"
            return RuleVerdict(rule=rule.id, matched=False, reason=f"{selector.name} is {has}, not {wanted}")
    return RuleVerdict(rule=rule.id, matched=True, reason="all selectors match")
