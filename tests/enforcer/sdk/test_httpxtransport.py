"""Calling services with httpx2: who answers, where, and that no request fails because something was rotated."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from enforcer.sdk import Limen
from enforcer.sdk.httpxtransport import async_transport, transport
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, TlsApp, http_answer, policies
from tests.enforcer.sdk.conftest import Served, Teller

Make = Callable[..., tuple[Limen, Teller]]
URL = "http://db.corp.test/orders"
SERVICES = {"db.corp.test": "db"}


class Both:
    """A client of either kind, asked in the same way."""

    def __init__(self, kind: str, limen: Limen, services: dict[str, str] | None = None) -> None:
        self._runner = asyncio.Runner() if kind == "async" else None
        self._async = httpx2.AsyncClient(transport=async_transport(limen, services or SERVICES), timeout=60)
        self._sync = httpx2.Client(transport=transport(limen, services or SERVICES), timeout=60)

    def get(self, url: str = URL) -> httpx2.Response:
        if self._runner is None:
            return self._sync.get(url)
        return self._runner.run(self._async.get(url))

    def close(self) -> None:
        self._sync.close()
        if self._runner is not None:
            self._runner.run(self._async.aclose())
            self._runner.close()


@pytest.fixture(params=["sync", "async"])
def clients(request: pytest.FixtureRequest) -> Any:
    made: list[Both] = []

    def make(limen: Limen, services: dict[str, str] | None = None) -> Both:
        made.append(Both(request.param, limen, services))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def apps(corp: Realm) -> Any:
    made: list[TlsApp] = []

    def make(spiffe_id: str) -> TlsApp:
        made.append(TlsApp(http_answer, corp.svid(spiffe_id), corp.bundle, tickets=False))
        return made[-1]

    yield make
    for app in made:
        app.close()


def test_a_service_answers_by_its_name_wherever_it_is(limens: Make, serving: Any, clients: Any) -> None:
    served: Served = serving(limens(DB, policies(ALLOW_WEB))[0])
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, served.port),))
    client = clients(web)
    for url in (URL, f"http://db.corp.test:{served.port}/orders", "https://db.corp.test/orders"):
        found = client.get(url)
        assert (found.status_code, found.json()["caller"]) == (200, WEB)
    denied = client.get("http://db.corp.test/admin")
    assert denied.status_code == 403
    assert json.loads(denied.content)["why"].startswith("limen audit show ")


@pytest.mark.parametrize("named", [DB, "db", "db:{port}"])
def test_a_host_may_stand_for_a_name_a_port_or_an_identity(
    limens: Make, serving: Any, clients: Any, named: str
) -> None:
    served: Served = serving(limens(DB, policies(ALLOW_WEB))[0])
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, served.port),))
    assert clients(web, {"db.corp.test": named.format(port=served.port)}).get().status_code == 200


def test_somebody_else_at_its_place_gets_no_byte(limens: Make, clients: Any, apps: Any) -> None:
    impostor = apps(OPS)
    web, teller = limens(WEB, policies(ALLOW_WEB), ((DB, impostor.port),))
    with pytest.raises(httpx2.ConnectError, match="LM3222"):
        clients(web).get()
    assert impostor.requests == []
    found = teller.programs[0].record(code="LM3222")
    assert (found["direction"], found["caller"], found["destination"]) == ("outbound", WEB, "db")


def test_the_next_place_is_tried_when_one_fails(limens: Make, clients: Any, apps: Any) -> None:
    impostor, good = apps(OPS), apps(DB)
    web, _ = limens(WEB, policies(ALLOW_WEB), ((DB, 1), (DB, impostor.port), (DB, good.port)))
    client = clients(web)
    for _ in range(4):
        assert client.get().content == b"hello"
    assert impostor.requests == []


def test_what_is_nowhere_says_so(limens: Make, clients: Any) -> None:
    web, _ = limens(WEB, policies(ALLOW_WEB))
    with pytest.raises(httpx2.ConnectError, match="LM3221"):
        clients(web).get()


def test_a_connection_is_kept_and_given_up_when_something_changed(
    limens: Make, corp: Realm, clients: Any, apps: Any
) -> None:
    good = apps(DB)
    web, teller = limens(WEB, policies(ALLOW_WEB), ((DB, good.port),))
    client = clients(web)
    for expected, change in (
        (1, lambda: None),
        (2, lambda: teller.identify(corp.svid(WEB), corp.bundle, trust=2)),
        # nothing about db has changed
        (2, lambda: teller.policy(policies(ALLOW_WEB), 2)),
        (3, lambda: teller.policy(policies(), 3)),
    ):
        change()
        for _ in range(3):
            assert client.get().status_code == 200
        assert good.connections == expected


def test_a_bundle_that_was_removed_is_no_reason_to_go_on(
    limens: Make, corp: Realm, evil: Realm, clients: Any, apps: Any
) -> None:
    good = apps(DB)
    web, teller = limens(WEB, policies(ALLOW_WEB), ((DB, good.port),))
    client = clients(web)
    assert client.get().status_code == 200
    teller.identify(corp.svid(WEB), evil.bundle, trust=2)
    with pytest.raises(httpx2.ConnectError):
        client.get()
    assert len(good.requests) == 1


def test_only_what_it_was_made_for(limens: Make) -> None:
    limen, _ = limens(WEB, policies(ALLOW_WEB))
    with pytest.raises(ValueError, match="requests"):
        transport(limen, library="requests")
