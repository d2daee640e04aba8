from hypothesis import given
from hypothesis import strategies as st

from ca.registration import IdentityRule, Selector
from ca.ruleindex import RuleIndex

_SELECTORS = st.builds(
    Selector, name=st.sampled_from("xyz"), value=st.text(alphabet="ab", max_size=3), prefix=st.booleans()
)
_FACTS = st.dictionaries(
    st.sampled_from("xyz"), st.lists(st.text(alphabet="ab", max_size=4), min_size=1, max_size=3).map(tuple)
)


@given(st.lists(st.lists(_SELECTORS, max_size=3, unique_by=lambda item: item.name), max_size=12), _FACTS)
def test_no_rule_that_matches_is_left_out(matches: list[list[Selector]], facts: dict[str, tuple[str, ...]]) -> None:
    rules = [IdentityRule(id=f"r{place}", match=tuple(match), spiffe_id="/x") for place, match in enumerate(matches)]
    expected = {place for place, rule in enumerate(rules) if all(item.matches(facts) for item in rule.match)}
    found = RuleIndex(rules).candidates(facts)
    assert expected <= set(found)
    assert found == sorted(set(found))


def test_few_rules_are_looked_at() -> None:
    rules = [
        IdentityRule(
            id=f"r{place}",
            match=(Selector.parse("unix:uid", "1"), Selector.parse("unix:path", f"/opt/{place}")),
            spiffe_id="/x",
        )
        for place in range(1000)
    ]
    assert RuleIndex(rules).candidates({"unix:uid": ("1",), "unix:path": ("/opt/7",)}) == [7]
