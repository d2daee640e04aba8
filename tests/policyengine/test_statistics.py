import datetime as dt
from typing import Any

from mesh.request import Effect
from policyengine.model import Conditions, ExceptionGrant, Operation, PolicySet, Principal
from policyengine.statistics import statistics_of


def test_a_service_is_counted_as_it_is_decided(make_service: Any, make_rule: Any, make_policy: Any) -> None:
    rules = (
        make_rule("a", "cart", "web", to=(Operation(methods=("GET",)), Operation(methods=("PUT",)))),
        make_rule("b", "spiffe://corp.test/ns/**", effect=Effect.DENY, when=Conditions(rego="data.x.y")),
        make_rule("c", "any", effect=Effect.PASS),
    )
    grant = ExceptionGrant(
        name="e", owner="", service="db", from_=(Principal.parse("service:web"),), reason="r",
        until=dt.datetime(2027, 1, 1, tzinfo=dt.UTC),
    )  # fmt: skip
    policies = PolicySet(
        services=(make_service("web"), make_service("db")), policies=(make_policy("db", *rules),), exceptions=(grant,)
    )
    db, web = (item.to_json() for item in statistics_of(policies))
    assert db == {
        "service": "db",
        "mode": "enforce",
        "ports": {"8080": "HTTP1"},
        "rules": {"total": 4, "guardrail": 0, "app": 4, "baseline": 0, "allow": 2, "deny": 1, "pass": 1},
        "callers": {"exact": 3, "below": 1, "any": 1},
        "operations": 5,
        "conditional": 2,
    }
    assert (web["service"], web["ports"], web["conditional"]) == ("web", {"8080": "L4"}, 0)
