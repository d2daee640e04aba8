import dataclasses
from typing import Any

import pytest

from mesh.request import Effect, Request
from policyengine.canonical import HostPattern, PathPattern
from policyengine.diagram import HOST, METHOD, PATH, Diagram, build
from policyengine.lookup import leaf_of, place_of
from policyengine.model import Conditions, Operation, PolicySet
from tests.policyengine.strategies import NOW, TD

SHOP = f"{TD}/ns/shop/sa/"


@pytest.fixture
def diagram(make_service: Any, make_policy: Any, make_rule: Any) -> Diagram:
    operation = Operation(
        methods=("GET",), hosts=(HostPattern.parse("*.corp.test"),), paths=(PathPattern.parse("/o/{id}"),)
    )
    rules = (
        make_rule("r", "cart", to=(operation,)),
        make_rule("h", "web", when=Conditions(headers=(("x-role", ("admin",)),))),
        make_rule("c", "ops", when=Conditions(rego="data.x.y")),
    )
    version = PolicySet(services=(make_service("db"),), policies=(make_policy("db", *rules),))
    return build("db", [version], NOW)


def request(**fields: Any) -> Request:
    standard: dict[str, Any] = {
        "service": "db", "port": 8080, "protocol": "http", "source": SHOP + "cart", "method": "GET",
        "host": "db.corp.test", "path": "/o/7", "time": NOW,
    }  # fmt: skip
    return Request(**{**standard, **fields})


def test_finds_the_class_of_every_dimension(diagram: Diagram) -> None:
    place = place_of(diagram, request())
    assert place is not None
    assert [callers.name for callers in place.region.callers] == [SHOP + "cart"]
    assert place.axes.methods[place.classes[METHOD]] == "GET"
    assert place.axes.hosts[place.classes[HOST]][0] == "*.corp.test"
    assert place.axes.paths[place.classes[PATH]][1][0] == "o"


@pytest.mark.parametrize(
    ("fields", "effect"),
    [
        pytest.param({}, Effect.ALLOW, id="matches"),
        pytest.param({"method": "PUT"}, Effect.DENY, id="other-method"),
        pytest.param({"host": None}, Effect.DENY, id="no-host"),
        pytest.param({"host": "bad host"}, Effect.DENY, id="malformed-host"),
        pytest.param({"path": "/o/7/8"}, Effect.DENY, id="other-path"),
        pytest.param({"source": SHOP + "web", "headers": (("x-role", "admin"),)}, Effect.ALLOW, id="header"),
        pytest.param({"source": SHOP + "web"}, Effect.DENY, id="no-header"),
        pytest.param({"source": SHOP + "web", "unknown": frozenset({"headers"})}, Effect.DENY, id="unknown-header"),
        pytest.param({"source": SHOP + "nobody"}, Effect.DENY, id="other-caller"),
    ],
)
def test_leads_to_the_leaf_that_decides(diagram: Diagram, fields: Any, effect: Effect) -> None:
    leaf = leaf_of(diagram, request(**fields))
    assert leaf is not None
    assert leaf.verdicts[0].effect is effect


@pytest.mark.parametrize("truth", [True, False, None], ids=str)
def test_asks_the_custom_rule(diagram: Diagram, truth: bool | None) -> None:
    leaf = leaf_of(diagram, request(source=SHOP + "ops"), lambda *_: truth)
    assert leaf is not None
    assert (leaf.verdicts[0].effect is Effect.ALLOW) is (truth is True)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"source": None}, id="no-identity"),
        pytest.param({"port": 1}, id="port"),
        pytest.param({"path": "/a;x"}, id="ambiguous"),
        pytest.param({"method": "G T"}, id="malformed-method"),
    ],
)
def test_is_silent_about_what_is_refused_before_any_rule(diagram: Diagram, fields: Any) -> None:
    assert leaf_of(diagram, dataclasses.replace(request(), **fields)) is None
