"""In which order endpoints are tried."""

from __future__ import annotations

import pytest

from enforcer.native.endpoints import Endpoint, Endpoints
from tests.enforcer.native.harness import DB, OPS

A, B, C = (Endpoint(name, "127.0.0.1", port) for name, port in ((DB, 1), (DB, 2), (OPS, 3)))


def is_db(identity: str) -> bool:
    return identity == DB


def test_endpoints_are_tried_in_turns() -> None:
    endpoints = Endpoints()
    endpoints.replace([A, B, C])
    assert {endpoints.order(is_db, None, 0.0) for _ in range(4)} == {(A, B), (B, A)}


def test_an_endpoint_that_failed_comes_last_for_a_while() -> None:
    endpoints = Endpoints()
    endpoints.replace([A, B])
    endpoints.failed(A, 100.0)
    assert {endpoints.order(is_db, None, 101.0) for _ in range(4)} == {(B, A)}
    assert {endpoints.order(is_db, None, 106.0) for _ in range(4)} == {(A, B), (B, A)}


@pytest.mark.parametrize(("port", "found"), [(None, {A, B}), (1, {A}), (9, set())])
def test_only_the_endpoints_of_the_service_and_port_are_tried(port: int | None, found: set[Endpoint]) -> None:
    endpoints = Endpoints()
    endpoints.replace([A, B, C])
    assert set(endpoints.order(is_db, port, 0.0)) == found
