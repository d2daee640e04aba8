import dataclasses

from learner.coverage import Bounds, Coverage
from learner.gate import judge

GOOD = Coverage(
    sessions=10_000, days=40, often=Bounds(session=1e-4, hour=0.01, day=0.1),
    once=Bounds(session=1e-4, hour=0.01, day=0.1),
    expected_new_per_day=0.0, kinds=5, kinds_at_least=5.0, since=0.0,
)  # fmt: skip


def test_green_needs_everything() -> None:
    assert judge(GOOD, 1, (), has_second_sensor=True).colour == "green"
    for changed, schedules, sensor in (
        (dataclasses.replace(GOOD, sessions=50), (), True),
        (dataclasses.replace(GOOD, once=Bounds(session=0.01, hour=1, day=0.1)), (), True),
        (dataclasses.replace(GOOD, once=Bounds(session=1e-4, hour=1, day=0.5)), (), True),
        (GOOD, ("job is scheduled and was not seen",), True),
        (GOOD, (), False),
    ):
        found = judge(changed, 1, schedules, has_second_sensor=sensor)
        assert found.colour == "amber"
        assert found.reasons
        assert found.to_green


def test_red_is_what_nobody_can_speak_about() -> None:
    for changed in (
        dataclasses.replace(GOOD, sessions=0),
        dataclasses.replace(GOOD, days=1, once=Bounds(session=1e-4, hour=1, day=1)),
        dataclasses.replace(GOOD, once=Bounds(session=0.2, hour=1, day=1)),
    ):
        found = judge(changed, 1, (), has_second_sensor=True)
        assert found.colour == "red"
        assert set(found.to_json()) == {"colour", "reasons", "what_would_make_it_green"}


def test_who_looks_often_is_judged_by_the_wider_bound() -> None:
    wide = dataclasses.replace(GOOD, often=Bounds(session=0.01, hour=1, day=0.9))
    assert judge(wide, 1, (), has_second_sensor=True).colour == "green"
    found = judge(wide, 5, (), has_second_sensor=True)
    assert found.colour == "amber"
    assert any("more days" in text for text in found.to_green)
