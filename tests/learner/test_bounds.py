import math
import random

import pytest

from learner.bounds import chao2, clopper_pearson_bound, regularised_beta, time_uniform_bound, wilson_lower


@pytest.mark.parametrize(("days", "bound"), [(7, 0.348), (14, 0.193), (30, 0.095), (59, 0.0495), (299, 0.00997)])
def test_the_honest_day_table(days: int, bound: float) -> None:
    assert clopper_pearson_bound(0, days) == pytest.approx(bound, abs=5e-4)
    assert clopper_pearson_bound(0, days) == pytest.approx(1 - 0.05 ** (1 / days), rel=1e-9)


@pytest.mark.parametrize(
    ("x", "a", "b", "value"),
    [(0.5, 1, 1, 0.5), (0.3, 2, 5, 0.579825), (0.9, 10, 2, 0.69736), (0.0, 1, 1, 0.0), (1.0, 3, 4, 1.0)],
)
def test_known_values_of_the_beta_function(x: float, a: float, b: float, value: float) -> None:
    assert regularised_beta(x, a, b) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("novel", [0, 1, 5, 20, 100])
def test_the_rigorous_bound_costs_something_and_not_much(novel: int) -> None:
    rigorous, exact = time_uniform_bound(novel, 5000), clopper_pearson_bound(novel, 5000)
    assert exact < rigorous < 1.8 * exact


def test_nothing_seen_says_nothing() -> None:
    assert time_uniform_bound(0, 0) == clopper_pearson_bound(0, 0) == 1.0
    assert time_uniform_bound(5, 5) == clopper_pearson_bound(5, 5) == 1.0
    assert time_uniform_bound(0, 2) == 1.0


def test_more_units_and_less_novelty_bound_better() -> None:
    bounds = [time_uniform_bound(0, units) for units in (10, 100, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert time_uniform_bound(1, 100) > time_uniform_bound(0, 100)


def test_the_bound_holds_at_every_moment_for_those_who_look_all_the_time() -> None:
    rng = random.Random(5)
    broken = 0
    worlds = 200
    for _ in range(worlds):
        weights = [1 / (rank + 1) ** 1.2 for rank in range(200)]
        total = sum(weights)
        draws = rng.choices(range(200), weights, k=600)
        seen: set[int] = set()
        missing, novel = 1.0, 0
        for count, draw in enumerate(draws, start=1):
            if draw not in seen:
                novel += 1
                seen.add(draw)
                missing -= weights[draw] / total
            if count % 50 == 0 and time_uniform_bound(novel, count) < missing:
                broken += 1
                break
    assert broken / worlds <= 0.05


def test_chao2_and_wilson() -> None:
    assert chao2(0, 0, 5, 0) == 5
    assert chao2(4, 1, 10, 14) == pytest.approx(10 + 13 / 14 * 4 * 3 / 4)
    assert wilson_lower(0, 0) == 0.0
    assert 0.0 <= wilson_lower(0, 10) < 1e-9
    assert wilson_lower(50, 100) < 0.5 < math.inf
