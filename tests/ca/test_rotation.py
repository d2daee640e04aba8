import dataclasses
import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.rotation import (
    TRANSITIONS,
    TRUSTED,
    AuthorityState,
    Event,
    Kind,
    Slot,
    Timing,
    apply,
    cliff,
    due,
    find,
    may_activate,
)
from mesh.problems import Conflict

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
S = AuthorityState
TIMING = Timing(
    longest_ttl=dt.timedelta(hours=1), propagation=dt.timedelta(seconds=1), refresh_hint=dt.timedelta(seconds=300)
)


def slot(name: str, kind: Kind = Kind.ISSUING, state: AuthorityState = S.ACTIVE, **fields: object) -> Slot:
    values: dict[str, object] = {
        "parent": "r" if kind is Kind.ISSUING else "",
        "created": NOW,
        "changed": NOW,
        "not_after": NOW + 90 * DAY,
        **fields,
    }
    return Slot(id=name, kind=kind, state=state, certificates=(b"der",), **values)  # type: ignore[arg-type]


def test_every_other_transition_is_refused_and_changes_nothing() -> None:
    for state, event in itertools.product(AuthorityState, Event):
        before = slot("a", state=state)
        if (state, event) in TRANSITIONS:
            after = apply(before, event, NOW + DAY)
            assert (after.state, after.changed) == (TRANSITIONS[state, event], NOW + DAY)
        else:
            with pytest.raises(Conflict, match="LM1301"):
                apply(before, event, NOW)


def test_nothing_comes_back_from_revoked_or_ended() -> None:
    assert not [state for state, _ in TRANSITIONS if state in {S.REVOKED, S.ENDED}]


@pytest.mark.parametrize("state", AuthorityState, ids=str)
def test_trusted_is_all_but_revoked_and_ended(state: AuthorityState) -> None:
    assert slot("a", state=state).is_trusted is (state not in {S.REVOKED, S.ENDED})
    assert (state in TRUSTED) is (state not in {S.REVOKED, S.ENDED})


@given(st.lists(st.sampled_from(list(Event)), max_size=12))
def test_one_that_was_revoked_is_never_trusted_again(events: list[Event]) -> None:
    found, was_revoked = slot("a", state=S.PREPARED), False
    for event in events:
        try:
            found = apply(found, event, NOW)
        except Conflict:
            continue
        was_revoked |= event is Event.REVOKE
        assert not (was_revoked and found.is_trusted)


def test_find_gives_the_newest_first() -> None:
    old, new = slot("old"), slot("new", created=NOW + DAY)
    assert [item.id for item in find([old, new, slot("jwt", Kind.JWT)], Kind.ISSUING, S.ACTIVE)] == ["new", "old"]


def test_a_successor_is_prepared_before_it_has_to_sign_and_that_before_leaves_are_cut_short() -> None:
    active = slot("a")
    prepare, activate = TIMING.prepare_at(active), TIMING.activate_at(active)
    assert NOW < prepare < activate < active.not_after - TIMING.longest_ttl
    # published 3 to 5 refreshes before it is used (Federation §4)
    assert activate - prepare >= 3 * TIMING.refresh_hint


def test_a_short_life_is_divided() -> None:
    short = slot("a", not_after=NOW + dt.timedelta(seconds=60))
    assert TIMING.activate_at(short) == NOW + dt.timedelta(seconds=30)
    assert TIMING.prepare_at(short) == NOW + dt.timedelta(seconds=20)


def test_a_successor_is_asked_for_once_when_its_time_has_come() -> None:
    active = slot("a")
    moment = TIMING.prepare_at(active)
    assert due([active], moment - dt.timedelta(seconds=1), TIMING, {}) == []
    (step,) = due([active], moment, TIMING, {})
    assert (step.event, step.kind) == (None, Kind.ISSUING)
    assert due([active, slot("b", state=S.PREPARED)], moment, TIMING, {}) == []


@pytest.mark.parametrize("state", [S.OLD, S.TAINTED], ids=str)
def test_a_retired_one_ends_when_its_work_has_ended(state: AuthorityState) -> None:
    retired, end = slot("a", state=state), NOW + dt.timedelta(hours=1)
    assert due([retired], end, TIMING, {"a": end}) == []
    (step,) = due([retired], end + dt.timedelta(seconds=1), TIMING, {"a": end})
    assert (step.event, step.slot) == (Event.END, "a")


def test_a_root_outlives_what_is_below_it() -> None:
    root, below = slot("r", Kind.ROOT, S.OLD), slot("a", state=S.OLD)
    later = NOW + DAY
    assert [step.slot for step in due([root, below], later, TIMING, {"a": NOW})] == ["a"]
    assert [step.slot for step in due([root], later, TIMING, {})] == ["r"]


@pytest.mark.parametrize(
    ("reported", "after", "behind"),
    [
        ({"n1": 5, "n2": 6}, 0, ["n1"]),
        ({"n1": 6, "n2": 6}, 2, []),
        ({"n1": 7}, 0, [""]),
        ({}, 0, [""]),
        ({}, 2, []),
    ],
    ids=["one-behind", "all", "settling", "nobody-yet", "nobody"],
)
def test_it_signs_when_every_live_agent_has_reported_it(
    reported: dict[str, int], after: int, behind: list[str]
) -> None:
    found = may_activate(
        slot("a", state=S.PREPARED),
        published=6,
        reported=reported,
        now=NOW + dt.timedelta(seconds=after),
        settle=dt.timedelta(seconds=1),
    )
    assert found == behind


def test_what_people_see_to_is_due_two_weeks_before_the_rest() -> None:
    by_hand = dataclasses.replace(TIMING, by_hand=frozenset({Kind.ISSUING}))
    active = slot("a")
    assert by_hand.activate_at(active) == TIMING.activate_at(active)
    assert by_hand.prepare_at(active) == TIMING.activate_at(active) - 14 * DAY
    assert by_hand.prepare_at(slot("j", Kind.JWT)) == TIMING.prepare_at(slot("j", Kind.JWT))
    # of a life that is short beside that, a third passes
    assert by_hand.prepare_at(slot("s", not_after=NOW + 3 * DAY)) == NOW + DAY


def test_the_next_cliff_is_the_first_end_of_what_signs_now() -> None:
    first = slot("a", not_after=NOW + DAY)
    assert cliff([slot("b"), first, slot("c", state=S.OLD, not_after=NOW)]) == (NOW + DAY, first)
    assert cliff([slot("c", state=S.OLD)]) is None
