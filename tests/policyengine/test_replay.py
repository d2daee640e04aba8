import dataclasses
import datetime as dt
from typing import Any

import pytest

from mesh.flow import Flow
from mesh.request import Effect
from mesh.spiffe import SpiffePattern
from policyengine.canonical import HostPattern, PathPattern
from policyengine.model import Conditions, Operation, PolicySet, Port, Unless
from policyengine.replay import Counted, impact_of

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ID = "spiffe://corp.test/ns/shop/sa/"
ORDERS = (Operation(paths=(PathPattern.parse("/orders"),), methods=("GET",)),)


def flow(**fields: Any) -> Flow:
    standard = {
        "start": NOW - dt.timedelta(days=1),
        "source": ID + "cart",
        "destination": ID + "db",
        "destination_port": 8080,
        "protocol": "http",
        "method": "GET",
        "path": "/orders",
    }
    return Flow(**{**standard, **fields})


@pytest.fixture
def version(make_service: Any, make_policy: Any) -> Any:
    def make(*rules: Any, **of_service: Any) -> PolicySet:
        policies = (make_policy("db", *rules),) if rules else ()
        return PolicySet(services=(make_service("db", **of_service), make_service("web")), policies=policies)

    return make


def counts(found: Any) -> tuple[int, int, int, int]:
    return found.same, found.newly_allowed, found.newly_denied, found.uncertain


def test_counts_what_stays_and_what_changes(version: Any, make_rule: Any) -> None:
    old, new = version(make_rule("r", "cart", to=ORDERS)), version(make_rule("r", "batch", to=ORDERS))
    flows = [flow(), flow(), flow(source=ID + "batch"), flow(path="/x")]
    found = impact_of(old, new, flows, NOW)
    assert counts(found) == (1, 1, 2, 0)
    assert [(change.outcome, change.before, change.after, change.count) for change in found.changes] == [
        ("newly_denied", "db-app/r", "LM2302", 2),
        ("newly_allowed", "LM2302", "db-app/r", 1),
    ]
    assert found.changes[0].to_json()["flow"] == flow().to_json()


def test_a_flow_without_an_identity_is_uncertain(version: Any, make_rule: Any) -> None:
    old, new = version(), version(make_rule("r", "cart"))
    flows = [flow(source=None, source_ip="10.0.0.1"), flow(destination=None, destination_ip="10.0.0.2")]
    found = impact_of(old, new, flows, NOW)
    assert counts(found) == (0, 0, 0, 2)
    assert [(change.flow, change.outcome) for change in found.changes] == [(item, "uncertain") for item in flows]


def test_a_flow_to_an_unchanged_service_is_the_same(version: Any, make_rule: Any) -> None:
    old, new = version(), version(make_rule("r", "cart", when=Conditions(rego="data.x")))
    elsewhere = flow(destination=ID + "web", source=None, source_ip="10.0.0.1")
    assert counts(impact_of(old, new, [elsewhere, flow()], NOW, changed={"db"})) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("of_rule", "of_flow", "is_uncertain"),
    [
        pytest.param({"when": Conditions(headers=(("x", ("a",)),))}, {}, True, id="header"),
        pytest.param({"unless": Unless(when=Conditions(rego="data.x"))}, {}, True, id="unless-rego"),
        pytest.param({"to": (Operation(hosts=(HostPattern.parse("db.corp.test"),)),)}, {}, True, id="host"),
        pytest.param({"to": ORDERS}, {"path": None, "method": None}, True, id="path-not-recorded"),
        pytest.param({"to": ORDERS}, {"protocol": "tcp", "path": None, "method": None}, True, id="seen-as-tcp"),
        pytest.param({"to": ORDERS}, {"path": "/orders?q=1"}, False, id="query"),
        pytest.param({"to": ORDERS}, {"path": "/orders;x"}, False, id="ambiguous"),
        pytest.param({"to": (Operation(ports=(9,), hosts=(HostPattern.parse("a"),)),)}, {}, False, id="other-port"),
        pytest.param(
            {"when": Conditions(headers=(("x", ("a",)),)), "to": ORDERS}, {"path": "/x"}, False, id="header-elsewhere"
        ),
        pytest.param({"when": Conditions(rego="data.x")}, {"source": ID + "web"}, False, id="other-caller"),
        pytest.param({"when": Conditions(rego="data.x")}, {"source": "nobody"}, False, id="no-identity"),
    ],
)
def test_never_guesses_what_a_flow_does_not_record(
    version: Any, make_rule: Any, of_rule: Any, of_flow: Any, is_uncertain: bool
) -> None:
    old, new = version(), version(make_rule("r", "cart", **of_rule))
    found = impact_of(old, new, [flow(**of_flow)], NOW)
    assert (found.uncertain == 1) is is_uncertain


def test_a_tcp_port_needs_no_request(version: Any, make_rule: Any) -> None:
    ports = (Port(port=5432, protocol="tcp"),)
    tcp = flow(destination_port=5432, protocol="tcp", method=None, path=None)
    old, new = version(ports=ports), version(make_rule("r", "cart"), ports=ports)
    assert counts(impact_of(old, new, [tcp], NOW)) == (0, 1, 0, 0)


def test_a_group_that_nobody_defines_could_mean_anybody(version: Any, make_rule: Any) -> None:
    deny = make_rule("d", "group:gone", effect=Effect.DENY, when=Conditions(rego="data.x"))
    old, new = version(make_rule("r", "cart")), version(make_rule("r", "cart"), deny)
    assert counts(impact_of(old, new, [flow()], NOW)) == (0, 0, 0, 1)


def test_a_destination_that_no_service_has_is_the_same(version: Any, make_rule: Any) -> None:
    stranger = str(SpiffePattern.parse("spiffe://b.test/x").id)
    found = impact_of(version(), version(make_rule("r", "cart")), [flow(destination=stranger)], NOW)
    assert counts(found) == (1, 0, 0, 0)


def test_what_was_counted_counts_so_often(version: Any, make_rule: Any) -> None:
    flows = [Counted(flow(), 1000), Counted(flow(path="/x"), 5), flow()]
    found = impact_of(version(make_rule("r", "cart", to=ORDERS)), version(), flows, NOW)
    assert counts(found) == (5, 0, 1001, 0)
    assert [change.count for change in found.changes] == [1001]


def test_what_both_versions_look_at_alike_is_certain(version: Any, make_rule: Any) -> None:
    kept = make_rule("r", "cart", when=Conditions(headers=(("x", ("a",)),)))
    beside = make_rule("s", "cart", to=(Operation(paths=(PathPattern.parse("/other"),)),))
    found = impact_of(version(kept), version(kept, beside), [flow(), flow(path="/other")], NOW)
    assert counts(found) == (1, 0, 0, 1)  # `/other` was allowed before, too, if it had the header


def test_a_deny_that_takes_everything_is_certain_whatever_was_not_recorded(version: Any, make_rule: Any) -> None:
    open_ = make_rule("r", "cart")
    found = impact_of(version(open_), version(open_, make_rule("d", "any", effect=Effect.DENY)), [flow(path=None)], NOW)
    assert counts(found) == (0, 0, 1, 0)


def test_an_identity_that_another_service_takes_over_is_asked_of_both(version: Any, make_rule: Any) -> None:
    old = version(make_rule("r", "cart"))
    renamed = dataclasses.replace(old.services[0], name="store")
    new = dataclasses.replace(old, services=(renamed, *old.services[1:]))
    assert counts(impact_of(old, new, [flow()], NOW)) == (0, 0, 1, 0)
