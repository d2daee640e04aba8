"""Upper bounds on what was not seen yet: how likely it is that the next unit holds something uncovered.

The bounds count units, which are sessions or days, never connections (research on coverage; design D9). They rest on
one assumption that is printed beside them: units are exchangeable. Pure Python; no table is looked up.
"""

from __future__ import annotations

import functools
import math

CONFIDENCE = 0.95
# the mixture over the martingale's parameter: half the weight on infinity, which decides when nothing was novel
_INFINITY_WEIGHT = 0.5
_GRID = tuple(4.0 * 0.72**step for step in range(16))


@functools.lru_cache(maxsize=65_536)
def time_uniform_bound(novel: int, units: int, confidence: float = CONFIDENCE) -> float:
    """An upper bound for the missing mass that holds at every moment at once, however often people look.

    ``novel`` of the last ``units`` units held something that was not covered just before it was learned; the count
    began at a fixed unit. With X = novel - sum of the missing masses, E[exp(-l X + (1 - e^-l) M)] <= 1 for every l,
    so the weighted sum over a grid of l stays below 1 / (1 - confidence) with the confidence. Solved for the mass.
    """
    if units <= 0:
        return 1.0
    limit = 1.0 / (1.0 - confidence)

    def evidence(mass: float) -> float:
        total = _INFINITY_WEIGHT * math.exp(min(mass, 700.0)) if novel == 0 else 0.0
        weight = (1.0 - _INFINITY_WEIGHT) / len(_GRID)
        for parameter in _GRID:
            exponent = -parameter * novel + (1.0 - math.exp(-parameter)) * mass
            total += weight * math.exp(min(exponent, 700.0))
        return total

    low, high = 0.0, float(units)
    if evidence(high) < limit:
        return 1.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if evidence(middle) < limit:
            low = middle
        else:
            high = middle
    return min(1.0, high / units)


@functools.lru_cache(maxsize=65_536)
def clopper_pearson_bound(novel: int, units: int, confidence: float = CONFIDENCE) -> float:
    """The exact bound for a gate that was fixed beforehand: BetaInv(confidence; novel + 1, units - novel)."""
    if units <= 0 or novel >= units:
        return 1.0
    if novel == 0:
        return float(1.0 - (1.0 - confidence) ** (1.0 / units))
    low, high = 0.0, 1.0
    # to twelve digits of the bound itself, which may be tiny
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if regularised_beta(middle, novel + 1, units - novel) < confidence:
            low = middle
        else:
            high = middle
    return high


def regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), by Lentz's continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - regularised_beta(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for step in range(1, 1000):
        for numerator in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            d = 1.0 + numerator * d
            c = 1.0 + numerator / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return result


def chao2(once: int, twice: int, seen: int, units: int) -> float:
    """A lower bound for how many kinds there are in all, from those seen in exactly one and exactly two units."""
    if units == 0:
        return float(seen)
    return seen + (units - 1) / units * once * (once - 1) / (2 * (twice + 1))


def wilson_lower(successes: int, trials: int, z: float = 1.6448536) -> float:
    """The one-sided Wilson lower bound of a share, at 95 % by default."""
    if trials == 0:
        return 0.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - spread) / (1 + z * z / trials))
