"""The algebra of the tiers, proved by z3 over what the code itself does.

The truth table of `reference.decide` and of the index is taken from the code: for every set of "a rule of this tier and
effect matches", under every mode, what is decided. That only these nine bits matter is checked against the code on
lists of rules, in every order. z3 then proves, for up to eight rules of any tier and effect that match or do not, that
no counterexample exists; for code that was broken on purpose it finds one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import pytest
import z3

from mesh.request import Decision, Effect, Mode, Request
from policyengine import ir, model, reference
from policyengine.decide import Index
from tests.policyengine.corners import ask, tree

EFFECTS = (Effect.DENY, Effect.PASS, Effect.ALLOW)
KINDS = tuple(itertools.product(model.TIERS, EFFECTS))
"""What a rule that matches may be; its place is its bit."""
BITS = len(KINDS)
ENFORCE, OBSERVE, NOBODY, OBSERVE_NOBODY = range(4)
MODES = (ENFORCE, OBSERVE, NOBODY, OBSERVE_NOBODY)
MOST_RULES = 8

Outcome = tuple[str, str, str, str]
Engine = Callable[[model.PolicySet, Request], Decision]
ENGINES: dict[str, Engine] = {
    "reference": lambda policies, request: reference.decide(policies, request, snapshot="s"),
    "index": lambda policies, request: Index(policies, "s").decide(request),
}


@dataclasses.dataclass(frozen=True)
class Placed:
    """A rule of a kind that matches, or does not."""

    kind: int
    matches: bool = True

    def rule(self, name: str) -> tuple[model.Tier, model.Rule]:
        """The rule itself; one that does not match names another port."""
        tier, effect = KINDS[self.kind]
        operations = None if self.matches else (model.Operation(ports=(81,)),)
        return tier, model.Rule(id=name, effect=effect, from_=(model.Principal("any"),), to=operations)


def policy_set(rules: tuple[Placed, ...], names: tuple[int, ...] | None = None, *, observe: bool) -> model.PolicySet:
    """One policy for each rule, in the order of the list; ``names`` are given, or the places."""
    plain = tree(ports=[(8080, "http"), (81, "http")], observe="2027-01-01T00:00:00Z" if observe else None)
    found = [rule.rule(f"r{name}") for rule, name in zip(rules, names or range(len(rules)), strict=True)]
    return dataclasses.replace(
        plain,
        policies=tuple(
            model.Policy(name=f"p-{rule.id}", owner="", service="db", tier=tier, rules=(rule,)) for tier, rule in found
        ),
    )


def decided(engine: Engine, rules: tuple[Placed, ...], mode: int, names: tuple[int, ...] | None = None) -> Decision:
    request = ask(source=None) if mode in {NOBODY, OBSERVE_NOBODY} else ask()
    return engine(policy_set(rules, names, observe=mode in {OBSERVE, OBSERVE_NOBODY}), request)


def outcome(decision: Decision) -> Outcome:
    return str(decision.effect), str(decision.policy_effect), decision.tier, decision.code


def matched(rules: tuple[Placed, ...], mode: int) -> int:
    """The bits of what matches: a caller without identity is matched by denies alone."""
    bits = 0
    for rule in rules:
        if rule.matches and (mode in {ENFORCE, OBSERVE} or KINDS[rule.kind][1] is Effect.DENY):
            bits |= 1 << rule.kind
    return bits


Table = Mapping[tuple[int, int], Outcome]


def truth_table(engine: Engine) -> Table:
    """What the code decides for every set of matching kinds, under every mode; it is asked, not copied."""
    return {
        (mode, bits): outcome(decided(engine, tuple(Placed(kind) for kind in range(BITS) if bits >> kind & 1), mode))
        for mode in MODES
        for bits in range(1 << BITS)
        # to nobody a pass or an allow does not match, whatever it is
        if mode in {ENFORCE, OBSERVE} or not bits & ~_DENIES
    }


_DENIES = sum(1 << place for place, (_, effect) in enumerate(KINDS) if effect is Effect.DENY)
_TABLES: dict[str, Table] = {}


def table_of(name: str) -> Table:
    if name not in _TABLES:
        _TABLES[name] = truth_table(ENGINES[name])
    return _TABLES[name]


def test_reference_and_index_have_one_truth_table() -> None:
    assert table_of("reference") == table_of("index")
    assert len(table_of("index")) == 2 * 2**9 + 2 * 2**3
    assert {found[0] for found in table_of("index").values()} == {"allow", "deny"}


ANY_RULE = tuple(Placed(kind, matches) for kind in range(BITS) for matches in (True, False))
LISTS = [
    pytest.param(list(itertools.product(ANY_RULE, repeat=2)), id="every-two-rules"),
    pytest.param(list(itertools.product(ANY_RULE[::2], repeat=3)), id="every-three-that-match"),
]


# what lets z3 speak of bits alone: neither order, nor how many, nor what does not match has a say
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("lists", LISTS)
def test_only_the_set_of_matching_kinds_matters(name: str, lists: list[tuple[Placed, ...]]) -> None:
    table = table_of(name)
    for rules in lists:
        for mode in (ENFORCE, OBSERVE, NOBODY):
            assert outcome(decided(ENGINES[name], rules, mode)) == table[mode, matched(rules, mode)], (rules, mode)


@pytest.mark.parametrize("name", ENGINES)
def test_the_order_in_which_rules_are_written_changes_nothing_of_a_decision(name: str) -> None:
    for kinds in itertools.combinations(range(BITS), 3):
        rules = tuple(Placed(kind) for kind in kinds)
        expected = decided(ENGINES[name], rules, ENFORCE)
        for order in itertools.permutations(range(3)):
            turned = tuple(rules[place] for place in order)
            assert decided(ENGINES[name], turned, ENFORCE, order) == expected


Rules = list[tuple[z3.ArithRef, z3.BoolRef]]


class Symbolic:
    """Up to eight rules that z3 may choose, and the code's truth table as a function of their bits."""

    def __init__(self, table: Table) -> None:
        self.solver = z3.Solver()
        self.mode = z3.Int("mode")
        self.solver.add(self.mode >= ENFORCE, self.mode <= OBSERVE_NOBODY)
        self.rules: Rules = [(z3.Int(f"kind{place}"), z3.Bool(f"matches{place}")) for place in range(MOST_RULES)]
        for kind, _ in self.rules:
            self.solver.add(kind >= 0, kind < BITS)
        self._allows = z3.Function("allows", z3.IntSort(), z3.BitVecSort(BITS), z3.BoolSort())
        for (mode, bits), found in table.items():
            self.solver.add(self._allows(mode, z3.BitVecVal(bits, BITS)) == (found[0] == "allow"))

    def allows(self, rules: Rules, mode: int | z3.ArithRef | None = None) -> z3.BoolRef:
        """Whether the code lets the request through, given these rules (`matched` says the same of real ones)."""
        under = self.mode if mode is None else mode
        is_known = z3.Or(under == ENFORCE, under == OBSERVE)
        bits = z3.BitVecVal(0, BITS)
        for kind, matches in rules:
            for place, (_, effect) in enumerate(KINDS):
                counts = z3.And(matches, kind == place, z3.Or(effect is Effect.DENY, is_known))
                bits |= z3.If(counts, z3.BitVecVal(1 << place, BITS), z3.BitVecVal(0, BITS))
        return self._allows(under, bits)

    def is_of(self, rule: tuple[z3.ArithRef, z3.BoolRef], *effects: Effect, tier: str | None = None) -> z3.BoolRef:
        """Whether a rule has one of the effects, and the tier if one is given."""
        return z3.Or(
            [rule[0] == place for place, (of, effect) in enumerate(KINDS) if effect in effects and tier in {None, of}]
        )

    def finds(self, *claims: z3.BoolRef) -> bool:
        """Whether z3 finds what satisfies all claims."""
        found = self.solver.check(*claims)
        assert found != z3.unknown
        return bool(found == z3.sat)


def undoes_a_guardrail(found: Symbolic) -> bool:
    """A guardrail deny matches, and the request goes through."""
    first = found.rules[0]
    return found.finds(found.is_of(first, Effect.DENY, tier="guardrail"), first[1], found.allows(found.rules))


def allow_removes_access(found: Symbolic) -> bool:
    """A request goes through, and does not once an allow is added."""
    *others, added = found.rules
    return found.finds(found.is_of(added, Effect.ALLOW), found.allows(others), z3.Not(found.allows(found.rules)))


def deny_gives_access(found: Symbolic) -> bool:
    """A request is denied, and goes through once a deny is added."""
    *others, added = found.rules
    return found.finds(found.is_of(added, Effect.DENY), z3.Not(found.allows(others)), found.allows(found.rules))


def silence_allows(found: Symbolic) -> bool:
    """Nothing matches, the service is enforced, and the request goes through."""
    silent = [z3.Not(matches) for _, matches in found.rules]
    return found.finds(*silent, z3.Or(found.mode == ENFORCE, found.mode == NOBODY), found.allows(found.rules))


def observing_denies_more(found: Symbolic) -> bool:
    """A request goes through when the service is enforced, and not when it is observed."""
    return any(
        found.finds(found.allows(found.rules, one), z3.Not(found.allows(found.rules, other)))
        for one, other in ((ENFORCE, OBSERVE), (NOBODY, OBSERVE_NOBODY))
    )


def nobody_is_allowed(found: Symbolic) -> bool:
    """A caller without a verified identity gets through."""
    return found.finds(z3.Or(found.mode == NOBODY, found.mode == OBSERVE_NOBODY), found.allows(found.rules))


LAWS = [
    undoes_a_guardrail,
    allow_removes_access,
    deny_gives_access,
    silence_allows,
    observing_denies_more,
    nobody_is_allowed,
]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("broken", LAWS, ids=lambda law: f"never-{law.__name__}")
def test_no_counterexample_exists(name: str, broken: Callable[[Symbolic], bool]) -> None:
    assert not broken(Symbolic(table_of(name)))


# the solver is not deaf: what the tiers do allow, it finds
def test_a_pass_may_remove_access_and_a_guardrail_allow_goes_over_every_deny_below() -> None:
    found = Symbolic(table_of("index"))
    *others, added = found.rules
    passed = found.is_of(added, Effect.PASS)
    assert found.finds(passed, found.allows(others), z3.Not(found.allows(found.rules)))
    above = found.is_of(added, Effect.ALLOW, tier="guardrail")
    assert found.finds(above, found.mode == ENFORCE, z3.Not(found.allows(others)), found.allows(found.rules))


def depends_on_order(engine: Engine) -> bool:
    """Whether z3 finds three rules of which two change places and the decision with them.

    The function is the code's own answer for every three rules in every order, a place left empty among them.
    """
    solver = z3.Solver()
    allows = z3.Function("allows", *[z3.IntSort()] * 3, z3.BoolSort())
    for kinds in itertools.product(range(BITS + 1), repeat=3):
        rules = tuple(Placed(kind) for kind in kinds if kind < BITS)
        solver.add(allows(*kinds) == decided(engine, rules, ENFORCE).is_allowed)
    one, two, three = (z3.Int(name) for name in ("one", "two", "three"))
    solver.add(*[z3.And(kind >= 0, kind <= BITS) for kind in (one, two, three)])
    # every order is made of exchanges of neighbours
    here = allows(one, two, three)
    found = solver.check(z3.Or(here != allows(two, one, three), here != allows(one, three, two)))
    assert found != z3.unknown
    return bool(found == z3.sat)


@pytest.mark.parametrize("name", ENGINES)
def test_no_order_of_rules_decides(name: str) -> None:
    assert not depends_on_order(ENGINES[name])


# -- the code, broken on purpose: a proof that cannot fail proves nothing


def test_an_order_that_decides_is_found() -> None:
    def first_written(policies: model.PolicySet, request: Request) -> Decision:
        return ENGINES["index"](dataclasses.replace(policies, policies=policies.policies[:1]), request)

    assert depends_on_order(first_written)


def test_an_allow_that_beats_a_deny_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir, "EFFECT_ORDER", {Effect.ALLOW: 0, Effect.PASS: 1, Effect.DENY: 2})
    assert undoes_a_guardrail(Symbolic(truth_table(ENGINES["index"])))


def test_tiers_in_another_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "TIERS", ("app", "guardrail", "baseline"))
    assert undoes_a_guardrail(Symbolic(truth_table(ENGINES["reference"])))


def test_an_allow_that_is_one_too_many_is_found() -> None:
    def quarrelsome(policies: model.PolicySet, request: Request) -> Decision:
        # as if two tiers that both allow were in conflict
        found = ENGINES["reference"](policies, request)
        later = tuple(item for item in policies.policies if item.tier == "baseline")
        again = ENGINES["reference"](dataclasses.replace(policies, policies=later), request)
        conflict = found.tier == "app" and found.is_allowed and again.is_allowed
        return dataclasses.replace(found, effect=Effect.DENY) if conflict else found

    assert allow_removes_access(Symbolic(truth_table(quarrelsome)))


def test_an_observe_without_guardrails_is_found() -> None:
    def lax(policies: model.PolicySet, request: Request) -> Decision:
        found = ENGINES["reference"](policies, request)
        return dataclasses.replace(found, effect=Effect.ALLOW) if found.mode is Mode.OBSERVE else found

    assert undoes_a_guardrail(Symbolic(truth_table(lax)))
