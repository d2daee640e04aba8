from typing import Any

import pytest

from mesh.request import Effect, Request
from policyengine.model import Conditions, PolicySet
from policyengine.rows import Row
from policyengine.secondlook import Replayer
from tests.policyengine.strategies import NOW, TD

CART = f"{TD}/ns/shop/sa/cart"


@pytest.fixture
def version(make_service: Any, make_policy: Any) -> Any:
    def make(*rules: Any, **fields: Any) -> PolicySet:
        policies = (make_policy("db", *rules),) if rules else ()
        return PolicySet(services=(make_service("db"),), policies=policies, **fields)

    return make


def row(**fields: Any) -> Row:
    witness = Request(service="db", port=8080, protocol="http", source=CART, method="GET", path="/a", time=NOW)
    standard: dict[str, Any] = {
        "source": CART, "service": "db", "port": 8080, "methods": ("*",), "paths": ("/**",), "when": {},
        "witness": witness, "because": (),
    }  # fmt: skip
    return Row(**{**standard, **fields})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Effect.DENY, Effect.ALLOW, True),
        (Effect.ALLOW, Effect.ALLOW, False),
        (Effect.DENY, Effect.DENY, False),
        (None, Effect.ALLOW, True),
    ],
    ids=str,
)
def test_is_replayed_only_if_all_four_say_so(
    version: Any, make_rule: Any, before: Effect | None, after: Effect, expected: bool
) -> None:
    replayer = Replayer(version(), version(make_rule("r", "cart")))
    assert replayer.replayed(row(), before, after).is_replayed is expected


@pytest.mark.parametrize("caller", ["any", "spiffe://corp.test/**", "spiffe://corp.test/ns/shop/**", "group:gone"])
def test_reads_the_rules_that_can_speak_of_the_caller(version: Any, make_rule: Any, caller: str) -> None:
    deny = make_rule("d", caller, effect=Effect.DENY)
    replayer = Replayer(version(make_rule("r", "cart")), version(make_rule("r", "cart"), deny))
    assert replayer.replayed(row(), Effect.ALLOW, Effect.DENY).is_replayed


def test_supposes_what_a_custom_rule_says_where_the_witness_does_not_meet_it(version: Any, make_rule: Any) -> None:
    custom = version(make_rule("r", "cart", when=Conditions(rego="data.x.y")), custom=lambda *_: False)
    replayer = Replayer(version(), custom)
    assert not replayer.replayed(row(), Effect.DENY, Effect.ALLOW).is_replayed
    supposing = row(supposed={("data.x.y", False): True})
    assert replayer.replayed(supposing, Effect.DENY, Effect.ALLOW).is_replayed


def test_the_rule_of_the_earlier_version_is_supposed_apart(version: Any, make_rule: Any) -> None:
    rule = make_rule("r", "cart", when=Conditions(rego="data.x.y"))
    replayer = Replayer(version(rule), version(rule))
    supposing = row(supposed={("data.x.y", True): False, ("data.x.y", False): True})
    assert replayer.replayed(supposing, Effect.DENY, Effect.ALLOW).is_replayed
