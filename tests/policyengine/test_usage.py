"""Known workloads are asked by pattern; a rule is unused only when no recorded request can have matched it."""

from typing import Any

import pytest

from mesh.flow import Flow
from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine.ir import normalise
from policyengine.model import PolicySet
from policyengine.usage import Known, by_service, unused
from tests.policyengine.corners import CART, NOW, ROLE_ADMIN, TD, WEB, allow, tree

DB = f"{TD}/ns/shop/sa/db"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (CART, True),
        (WEB, False),
        (f"{TD}/ns/shop/**", True),
        (f"{TD}/**", True),
        (f"{TD}/ns/shop/sa/cart/**", False),
        (f"{TD}/ns/shop-evil/**", False),
        ("spiffe://other.test/**", False),
    ],
)
def test_known_workloads_by_pattern(pattern: str, expected: bool) -> None:
    known = Known([SpiffeId.parse(CART), SpiffeId.parse(DB)])
    assert known.has_any(SpiffePattern.parse(pattern)) is expected
    assert len(known) == 2


def flow(**fields: Any) -> Flow:
    plain: dict[str, Any] = {
        "start": NOW, "source": CART, "destination": DB, "destination_port": 8080,
        "protocol": "http", "method": "GET", "path": "/orders/5?x=1",
    }  # fmt: skip
    return Flow(**{**plain, **fields})


def idle(policies: PolicySet, *flows: Flow) -> list[str]:
    service = policies.service_for("db")
    assert service is not None
    return [grant.rule for grant in unused(normalise(policies, service), flows)]


ORDERS = {"to": [{"methods": ["GET"], "paths": ["/orders/{id}"]}]}


@pytest.mark.parametrize(
    ("rule", "recorded", "expected"),
    [
        pytest.param(allow(**{"from": [CART]}, **ORDERS), flow(), True, id="used"),
        pytest.param(allow(**ORDERS), flow(), True, id="by-any"),
        pytest.param(allow(**{"from": [f"{TD}/ns/**"]}, **ORDERS), flow(), True, id="by-a-subtree"),
        pytest.param(allow(**{"from": [WEB]}, **ORDERS), flow(), False, id="other-caller"),
        pytest.param(allow(**ORDERS), flow(method="POST"), False, id="other-method"),
        pytest.param(allow(**ORDERS), flow(path="/refunds"), False, id="other-path"),
        pytest.param(allow(to=[{"ports": [81]}]), flow(), False, id="other-port"),
        pytest.param(allow(**ORDERS), flow(method=None, path=None), True, id="request-not-recorded"),
        pytest.param(allow(**ORDERS), flow(protocol="tcp", method=None, path=None), True, id="connection"),
        pytest.param(allow(**ORDERS, when=ROLE_ADMIN), flow(), True, id="condition-not-recorded"),
        pytest.param(allow(**ORDERS), flow(source=None), False, id="caller-not-attributed"),
    ],
)  # fmt: skip
def test_unused(rule: dict[str, Any], recorded: Flow, expected: bool) -> None:
    policies = tree(app=[rule], ports=[(8080, "http"), (81, "http")])
    assert idle(policies, recorded, recorded) == ([] if expected else ["r0"])
    assert idle(policies) == ["r0"]


def test_flows_belong_to_the_service_that_was_called() -> None:
    services = [("db", (SpiffePattern.parse(DB),)), ("ops", (SpiffePattern.parse(f"{TD}/ns/ops/**"),))]
    flows = [flow(), flow(destination=f"{TD}/ns/ops/sa/x"), flow(destination=WEB), flow(destination=None)]
    assert {name: len(found) for name, found in by_service(flows, services).items()} == {"db": 1, "ops": 1}
