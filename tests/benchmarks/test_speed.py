import pytest

from benchmarks.speed import SET_ON, Budget, Limit, verdict

TOKENS = Budget("tokens", 20_000, verifies=False)
LEAVES = Budget("leaves", 7_000, verifies=True)


def test_a_budgets_share_is_what_it_was_of_the_limit_where_it_was_set() -> None:
    assert TOKENS.share == pytest.approx(20_000 / 51_800)
    assert LEAVES.share == pytest.approx(7_000 * (1 / 51_800 + 1 / 16_700))
    assert TOKENS.of(SET_ON) == 51_800


def test_a_slow_machine_misses_the_number_and_may_meet_the_share() -> None:
    slow = Limit(25_900, 8_350)
    found = TOKENS.judge([11_000, 12_000, 30_000], [slow] * 3)
    assert (found["per_s"], found["best_per_s"], found["met"]) == (12_000, 30_000, False)
    assert (found["share"], found["budget_share"], found["share_met"]) == (0.463, 0.386, True)
    assert verdict("tokens", found).splitlines() == [
        "tokens: 12,000/s of 20,000/s: MISSED",
        "tokens, share of `openssl speed` in the same round: 0.463 of 0.386: met",
    ]


def test_a_fast_machine_meets_the_number_and_may_miss_the_share() -> None:
    found = LEAVES.judge([8_000], [Limit(103_600, 33_400)])
    assert (found["met"], found["share_met"]) == (True, False)


def test_a_round_is_held_against_its_own_limit() -> None:
    found = TOKENS.judge([10_000, 20_000], [Limit(20_000, 1), Limit(40_000, 1)])
    assert found["share"] == 0.5


def test_without_openssl_there_is_no_verdict_on_a_share() -> None:
    found = LEAVES.judge([7_000], [])
    assert found["met"] is True
    assert "share" not in found
    assert verdict("leaves", found) == "leaves: 7,000/s of 7,000/s: met"
