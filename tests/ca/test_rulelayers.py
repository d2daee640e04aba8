import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import rulelayers
from ca.registration import Facts, IdentityRule, RuleSet, Selector
from ca.rulelayers import FEW
from mesh.spiffe import TrustDomain
from tests.examples import examples

DOMAIN = TrustDomain.parse("layers.test")
NAMES = ["unix:uid", "unix:path", "unix:basename", "systemd:unit", "k8s:ns", "unix:supplementary-gid"]
VALUES = ["1", "/a", "/a*", "/ab", "*", "x", "x*"]
SELECTORS = st.lists(st.sampled_from(NAMES), max_size=3, unique=True).flatmap(
    lambda names: st.tuples(
        *(st.sampled_from(VALUES).map(lambda value, name=name: Selector.parse(name, value)) for name in sorted(names))  # type: ignore[misc]
    )
)
RULES = st.lists(SELECTORS, max_size=8).map(
    lambda found: tuple(
        IdentityRule(id=f"r{place}", match=match, spiffe_id=f"/sa/r{place}") for place, match in enumerate(found)
    )
)
FACTS = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(["1", "/a", "/ab", "x", "xy"]).map(lambda value: (value,)), max_size=4
)


def after(before: RuleSet, rules: tuple[IdentityRule, ...]) -> RuleSet:
    """The same with layers over those from before, where that can be."""
    removed = [rule for rule in before.rules if rule not in rules]
    added = [rule for rule in rules if rule not in before.rules]
    ids = {rule.id for rule in before.rules}
    layers = before.layers.after(rules, removed=removed, added=added) if len(ids) == len(before.rules) else None
    return RuleSet(rules=rules) if layers is None else RuleSet(rules=rules, layers=layers)


def ties_of(rules: RuleSet) -> set[tuple[object, object]]:
    return {(item.facts["rule"], item.facts["other"]) for item in rules.conflicts()}


@settings(max_examples=examples(200), deadline=None)
@given(RULES, RULES, RULES, FACTS)
def test_layers_say_what_the_rules_say(
    first: tuple[IdentityRule, ...], second: tuple[IdentityRule, ...], third: tuple[IdentityRule, ...], facts: Facts
) -> None:
    layered = RuleSet(rules=first)
    layered.conflicts()
    for rules in (second, third, third[1:], (*third[1:], *first[:1]), first):
        layered, plain = after(layered, rules), RuleSet(rules=rules)
        assert layered == plain
        assert layered.entitle(facts, DOMAIN) == plain.entitle(facts, DOMAIN)
        assert ties_of(layered) == ties_of(plain)
        assert layered.explain(facts) == plain.explain(facts)


def many(count: int, **changed: str) -> tuple[IdentityRule, ...]:
    return tuple(
        IdentityRule(
            id=f"r{place}",
            match=(Selector.parse("unix:path", f"/opt/{place}"), Selector.parse("unix:uid", str(place % 7))),
            spiffe_id=changed.get(f"r{place}", f"/sa/r{place}"),
        )
        for place in range(count)
    )


def test_one_changed_rule_of_many_is_the_only_one_that_is_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RuleSet(rules=many(1000))
    assert before.conflicts() == ()
    sizes: list[int] = []
    real = rulelayers.RuleIndex

    def index(rules: tuple[IdentityRule, ...]) -> rulelayers.RuleIndex:
        sizes.append(len(rules))
        return real(rules)

    monkeypatch.setattr(rulelayers, "RuleIndex", index)
    compared: list[int] = []
    monkeypatch.setattr(rulelayers, "ties", lambda rules: compared.append(len(rules)) or iter(()))
    found_after = after(before, many(1000, r77="/sa/other"))
    assert found_after.conflicts() == ()
    assert (sizes, compared) == ([1], [1])
    found = found_after.entitle({"unix:path": ("/opt/77",), "unix:uid": ("0",)}, DOMAIN)
    assert getattr(found, "spiffe_id", None) == DOMAIN.id.__class__.parse("spiffe://layers.test/sa/other")


def test_a_new_rule_that_ties_with_an_old_one_is_found() -> None:
    before = RuleSet(rules=many(1000))
    assert before.conflicts() == ()
    tied = IdentityRule(
        id="new",
        match=(Selector.parse("unix:path", "/opt/9"), Selector.parse("unix:gid", "5")),
        spiffe_id="/new",
    )
    assert ties_of(after(before, (*before.rules, tied))) == {("new", "r9")}


def test_many_changes_are_a_new_first_layer() -> None:
    before = RuleSet(rules=many(FEW + 10))
    others = tuple(many(FEW + 10, **{f"r{place}": "/x" for place in range(FEW + 1)}))
    assert after(before, others).layers.first is not before.layers.first
    assert after(before, many(FEW + 10, r1="/x")).layers.first is before.layers.first


def test_an_id_that_stands_twice_is_looked_at_with_all() -> None:
    before = RuleSet(rules=many(10))
    again = IdentityRule(id="r3", match=(Selector.parse("unix:uid", "9"),), spiffe_id="/x")
    assert before.layers.after((*before.rules, again), removed=(), added=[again]) is None
    new = IdentityRule(id="new", match=(Selector.parse("unix:uid", "9"),), spiffe_id="/x")
    assert before.layers.after((*before.rules, new, new), removed=(), added=[new, new]) is None
