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


def ties_of(rules: RuleSet) -> set[tuple[object, object]]:
    return {(item.facts["rule"], item.facts["other"]) for item in rules.conflicts()}


@settings(max_examples=examples(200), deadline=None)
@given(RULES, RULES, RULES, FACTS)
def test_layers_say_what_the_rules_say(
    first: tuple[IdentityRule, ...], second: tuple[IdentityRule, ...], third: tuple[IdentityRule, ...], facts: Facts
) -> None:
    layered = RuleSet(rules=first)
    layered.conflicts()
    for rules in (second, third, (*third[1:], *first[:2]), first):
        layered, plain = RuleSet(rules=rules, base=layered), RuleSet(rules=rules)
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
    before = RuleSet(rules=many(5000))
    assert before.conflicts() == ()
    sizes: list[int] = []
    real = rulelayers.RuleIndex

    def index(rules: tuple[IdentityRule, ...]) -> rulelayers.RuleIndex:
        sizes.append(len(rules))
        return real(rules)

    monkeypatch.setattr(rulelayers, "RuleIndex", index)
    compared: list[int] = []
    monkeypatch.setattr(rulelayers, "ties", lambda rules: compared.append(len(rules)) or iter(()))
    after = RuleSet(rules=many(5000, r77="/sa/other"), base=before)
    assert after.conflicts() == ()
    assert (sizes, compared) == ([1], [1])
    found = after.entitle({"unix:path": ("/opt/77",), "unix:uid": ("0",)}, DOMAIN)
    assert getattr(found, "spiffe_id", None) == DOMAIN.id.__class__.parse("spiffe://layers.test/sa/other")


def test_a_new_rule_that_ties_with_an_old_one_is_found() -> None:
    before = RuleSet(rules=many(1000))
    assert before.conflicts() == ()
    tied = IdentityRule(
        id="new",
        match=(Selector.parse("unix:path", "/opt/9"), Selector.parse("unix:gid", "5")),
        spiffe_id="/new",
    )
    after = RuleSet(rules=(*before.rules, tied), base=before)
    assert ties_of(after) == {("new", "r9")}


def test_many_changes_are_a_new_first_layer() -> None:
    before = RuleSet(rules=many(FEW + 10))
    after = RuleSet(rules=tuple(many(FEW + 10, **{f"r{place}": "/x" for place in range(FEW + 1)})), base=before)
    assert after.layers.first is not before.layers.first
    assert RuleSet(rules=many(FEW + 10, r1="/x"), base=before).layers.first is before.layers.first
