"""What the log of a state directory says of workloads and requests, without a server."""

import pathlib

import pytest

from limen.recorded import flow_of, read_recorded
from tests.world import RULES, World

CART, DB = "spiffe://world.test/ns/shop/sa/cart", "spiffe://world.test/ns/shop/sa/db"
ROW = {
    "time": "2026-11-24T12:00:00Z", "kind": "decision", "direction": "inbound", "caller": CART, "destination": DB,
    "port": 8080, "peer_ip": "127.0.0.1", "protocol": "http", "method": "GET", "path": "/orders/1",
}  # fmt: skip


def test_issued_identities_are_known(world: World) -> None:
    node = world.join()
    world.rules(RULES)
    world.issue(node, unix__uid="1000")
    found = read_recorded(world.state)
    assert found is not None
    assert "spiffe://world.test/user/1000" in {str(identity) for identity in found.identities}
    assert found.flows == ()


def test_a_directory_without_a_log_has_recorded_nothing(tmp_path: pathlib.Path) -> None:
    assert read_recorded(tmp_path) is None


def test_a_decision_is_the_flow_that_it_is_about() -> None:
    found = flow_of(ROW)
    assert found is not None
    assert (found.source, found.destination, found.destination_port) == (CART, DB, 8080)
    assert (found.protocol, found.method, found.path, found.source_ip) == ("http", "GET", "/orders/1", "127.0.0.1")


@pytest.mark.parametrize("missing", ["caller", "destination", "port", "protocol"])
def test_a_decision_that_lacks_a_side_is_no_flow(missing: str) -> None:
    assert flow_of({**ROW, missing: None}) is None
