import pytest

from ca import ruletie
from ca.registration import IdentityRule, RuleSet, Selector


def rules(count: int, *names: str, value: str = "v{}") -> list[IdentityRule]:
    return [
        IdentityRule(
            id=f"{names[0]}{place}",
            match=tuple(Selector.parse(name, value.format(place)) for name in names),
            spiffe_id="/x",
        )
        for place in range(count)
    ]


def test_many_kinds_of_rules_are_told_apart_by_the_fact_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [*rules(10_000, "unix:uid", "unix:path"), *rules(10_000, "unix:uid", "unix:sha256", value="w{}")]
    # pair by pair it takes two hundred million
    monkeypatch.setattr(ruletie, "MAX_COMPARISONS", 10 * len(found))
    assert list(ruletie.ties(found)) == []


def test_prefixes_inside_each_other_are_found_among_many() -> None:
    found = [*rules(5000, "unix:path", value="/opt/{}/*"), *rules(1, "unix:path", value="/opt/77/x*")]
    assert list(ruletie.ties(found)) == [(77, 5000)]


def test_what_ties_everywhere_is_shown_in_part() -> None:
    found = [*rules(2000, "unix:uid"), *rules(2000, "unix:gid")]
    assert len(list(ruletie.ties(found))) == ruletie.MAX_FINDINGS


def test_a_file_that_cannot_be_told_apart_in_time_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruletie, "MAX_COMPARISONS", 1000)
    found = [*rules(200, "systemd:unit"), *rules(200, "k8s:sa")]
    with pytest.raises(ruletie.EntangledError):
        list(ruletie.ties(found))
    assert [item.code for item in RuleSet(rules=tuple(found)).conflicts()] == ["LM1215"]
