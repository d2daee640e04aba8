"""Rules that are written as before are the same objects, however many come, go or change beside them."""

from hypothesis import given
from hypothesis import strategies as st

from policyengine.keptrules import KeptRules, chunks_of, digest
from policyengine.model import Rule
from policyengine.reading import Reader


def written(number: int, **others: object) -> dict[str, object]:
    return {"id": f"r{number}", "effect": "allow", "from": ["any"], **others}


class Told:
    """Reads rules, and tells which."""

    def __init__(self) -> None:
        self.read: list[object] = []

    def __call__(self, item: object) -> Rule | None:
        self.read.append(item)
        reader = Reader()
        found = reader.rule(item, ())
        return None if reader.findings else found


def rules(kept: KeptRules, items: list[object], told: Told) -> tuple[Rule, ...] | None:
    kept.begin()
    chunks = chunks_of(items)
    return kept.rules(chunks, tuple(map(digest, chunks)), told)


@given(st.lists(st.integers(0, 300), unique=True), st.lists(st.integers(0, 300), unique=True))
def test_only_what_is_new_is_read(first: list[int], second: list[int]) -> None:
    kept, told = KeptRules(), Told()
    before = rules(kept, [written(number) for number in first], told)
    told.read.clear()
    after = rules(kept, [written(number) for number in second], told)
    assert before is not None
    assert after is not None
    assert [rule.id for rule in after] == [f"r{number}" for number in second]
    assert told.read == [written(number) for number in second if number not in first]
    held = {rule.id: rule for rule in before}
    assert all(rule is held.get(rule.id, rule) for rule in after)


@given(st.lists(st.integers(0, 300), unique=True))
def test_chunks_are_the_list(numbers: list[int]) -> None:
    items: list[object] = [written(number) for number in numbers]
    assert [item for chunk in chunks_of(items) for item in chunk] == items
    assert all(chunks_of(items))


def test_what_is_no_rule_is_one_chunk() -> None:
    for odd in (7, "r", None, {"effect": "allow"}, {"id": ["x"]}):
        items: list[object] = [written(number) for number in range(100)]
        assert chunks_of([*items, odd]) == [[*items, odd]]


def test_equal_to_python_is_not_the_same() -> None:
    assert len({digest(value) for value in (1, True, 1.0, "1", [1], {"a": 1}, {"a": True})}) == 7


def test_findings_are_not_kept_and_what_is_gone_is_forgotten() -> None:
    kept, told = KeptRules(), Told()
    assert rules(kept, [written(1), written(2, effect="no")], told) is None
    assert rules(kept, [written(1), written(2, effect="no")], told) is None
    assert told.read.count(written(2, effect="no")) == 2
    for number in range(50):
        rules(kept, [written(number)], told)
    assert len(kept._now) + len(kept._before) == 2


def test_a_policy_that_is_the_same_keeps_its_rules_for_the_next_reading() -> None:
    kept, told = KeptRules(), Told()
    items: list[object] = [written(number) for number in range(100)]
    before = rules(kept, items, told)
    for _ in range(3):
        kept.begin()
        kept.touch(tuple(map(digest, chunks_of(items))))
    told.read.clear()
    assert rules(kept, items, told) == before
    assert not told.read
