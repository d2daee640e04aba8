"""What is found once for regions that are alike is what is found in each of them alone."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from policyengine import diagram
from policyengine.atoms import TooLarge
from policyengine.canonical import PathPattern
from policyengine.finding import Finder, Verdicts
from policyengine.model import Conditions, Operation, PolicySet, Principal, Rule, Unless
from policyengine.regions import Region, changes_of, regions_of
from policyengine.rows import Because, reasons, rows_of
from tests.examples import examples
from tests.policyengine.plans import ID, NOW, OPERATIONS, policies, rule

CALLERS = [f"c{place}" for place in range(6)]
HEADER = Conditions(headers=(("x-t", ("a",)),))


def changed(verdicts: Verdicts) -> tuple[Effect, Because] | None:
    before, after = verdicts
    return None if before.effect is after.effect else (after.effect, reasons(before, after, "db"))


def regions(old: PolicySet, new: PolicySet) -> list[Region]:
    return [region for change in changes_of(old, new) for region in regions_of(change)]


@st.composite
def crowds(draw: Any) -> tuple[PolicySet, PolicySet]:
    """Two versions with rules of a few kinds for each of some callers, under names that stay or change."""
    kinds = draw(
        st.lists(
            st.tuples(
                st.sampled_from(Effect),
                OPERATIONS,
                st.sampled_from([None, None, HEADER]),
                st.sampled_from([None, None, Unless(from_=(Principal.parse(ID + "c1"),)), Unless(when=HEADER)]),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def version() -> list[Rule]:
        return [
            rule(
                caller,
                effect=effect,
                id_=draw(st.sampled_from(["a", "b"])) + caller,
                to=(to,),
                when=when,
                unless=unless,
            )
            for caller in CALLERS
            for effect, to, when, unless in draw(st.lists(st.sampled_from(kinds), max_size=2))
        ]

    old = version()
    new = draw(st.sampled_from([old, version(), [*old, rule("any", effect=Effect.DENY)], old[::2]]))
    return policies(*old), policies(*new)


# INVARIANT: regions of one likeness have the same parts, under their own names.
@settings(max_examples=examples(60), deadline=None)
@given(crowds())
def test_what_is_said_of_a_region_alike_is_what_is_found_in_it(versions: tuple[PolicySet, PolicySet]) -> None:
    shared = Finder(NOW, changed)
    for region in regions(*versions):
        ours, alone = shared.differences_in(region), Finder(NOW, changed).differences_in(region)
        for effect in Effect:
            rows = [rows_of([part for found, part in side if found is effect], NOW) for side in (ours, alone)]
            assert sorted(map(repr, rows[0])) == sorted(map(repr, rows[1]))


def test_callers_with_rules_alike_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Region] = []

    class Counted(diagram.Builder):
        def __init__(self, region: Region, now: dt.datetime) -> None:
            built.append(region)
            super().__init__(region, now)

    monkeypatch.setattr("policyengine.finding.Builder", Counted)
    listed = regions(policies(), policies(*(rule(name) for name in CALLERS)))
    finder = Finder(NOW, changed)
    found = [finder.differences_in(region) for region in listed]
    assert len(built) == 1
    assert len(listed) == len(CALLERS)
    assert [difference.because for ((_, difference),) in found] == [(f"p/r{place}",) for place in range(len(CALLERS))]


def test_parameters_of_other_names_are_other_words() -> None:

    named = [rule(name, to=(Operation(paths=(PathPattern.parse(f"/o/{{{name}}}"),)),)) for name in CALLERS[:2]]
    listed = regions(policies(), policies(*named))
    assert len({region.likeness.likeness for region in listed}) == 2


def test_what_is_too_large_once_is_too_large_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagram, "MAX_STEPS", 0)
    finder = Finder(NOW, changed)
    for region in regions(policies(), policies(*(rule(name) for name in CALLERS))):
        with pytest.raises(TooLarge):
            finder.differences_in(region)
