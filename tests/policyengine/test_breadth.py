"""What holds more is broader; a change of the request opens nothing."""

import math

import pytest

from policyengine import breadth
from policyengine.canonical import HostPattern, PathPattern
from policyengine.model import Operation, Principal
from tests.policyengine.corners import CART, CLAIM_ADMIN, ROLE_ADMIN, TD, WEB, allow, tree


def callers(*names: str) -> float:
    return breadth.callers_breadth(tree().expand(tuple(map(Principal.parse, names))))


def test_callers_from_one_to_anybody() -> None:
    ways = [callers(CART), callers(CART, WEB), callers(f"{TD}/ns/shop/**"), callers(f"{TD}/ns/**"), callers(f"{TD}/**")]
    assert ways == sorted(set(ways))
    assert callers("any") > ways[-1]
    assert callers(CART) == callers("service:web") == breadth.ONE


def operation(**fields: object) -> float:
    return breadth.operation_breadth(Operation(**fields))  # type: ignore[arg-type]  # fields of Operation


def paths(*texts: str) -> float:
    return operation(paths=tuple(map(PathPattern.parse, texts)))


def test_paths_from_one_to_any() -> None:
    ways = [paths("/a"), paths("/a", "/b"), paths("/a/{x}"), paths("/a/{x}/{y}"), paths("/a/b/**"), paths("/a/**")]
    assert ways == sorted(set(ways))
    assert paths("/a/**") < paths("/**") <= operation()


def test_every_field_that_is_named_narrows() -> None:
    assert operation(methods=("GET",)) < operation(methods=("GET", "PUT")) < operation()
    assert operation(ports=(80,)) < operation(ports=(80, 81)) < operation()
    host, below = HostPattern.parse("a.test"), HostPattern.parse("*.a.test")
    assert operation(hosts=(host,)) < operation(hosts=(below,)) < operation()


@pytest.mark.parametrize("when", [ROLE_ADMIN, CLAIM_ADMIN])
def test_conditions_narrow(when: dict[str, object]) -> None:
    def of(rule: dict[str, object]) -> float:
        policies = tree(app=[rule])
        return breadth.rule_breadth(policies, policies.policies[0].rules[0])

    assert of(allow(when=when)) < of(allow())


def test_nothing_beside_something_is_that() -> None:
    assert breadth.together([breadth.NOTHING, 3.0]) == 3.0
    assert breadth.together([]) == breadth.NOTHING == -math.inf
    assert breadth.together([2.0, 2.0]) == 3.0
