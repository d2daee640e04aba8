"""Keys come from a real HTTPS server with a private authority, are kept when it is gone, and asked for again."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.server
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme

from enforcer.issuerkeys import IssuerKeys
from mesh.clock import ManualClock, parse_time
from mesh.jwks import parse_jwks
from mesh.keysets import AGAIN_S, KEEP_S, REFRESH_S, KeySets
from policyengine.issuer import Issuer
from policyengine.model import PolicySet
from tests.ca.attestation.issuers import EC_KEY, NOW, RSA_KEY, jwk, key_set


class Server:
    """An issuer's own web server: what it answers may change."""

    def __init__(self, url: str, ca: str) -> None:
        self.url, self.ca = url, ca
        self.status, self.body = 200, key_set(jwk(RSA_KEY, "r1"))
        self.asked = 0

    def issuer(self, **other: Any) -> Issuer:
        fields: dict[str, Any] = {"jwks_uri": self.url, "ca": self.ca, **other}
        return Issuer(name="idp", owner="", issuer="https://idp.test", audiences=("a",), **fields)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            self.send_response(found.status)
            self.send_header("location", "https://localhost/elsewhere")
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in http.server
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
        found = Server(f"https://localhost:{http_server.server_port}/keys", authority.cert_pem.bytes().decode())
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield found
        http_server.shutdown()
        thread.join()


class World:
    """An agent's keys under a clock of the test's."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.seconds = 1000.0
        self.told: list[dict[str, Any]] = []
        self.keys = IssuerKeys(self.clock, self.told.append, KeySets(moment=lambda: self.seconds))

    def want(self, *issuers: Issuer) -> None:
        self.keys.want([PolicySet(issuers=issuers), None])

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(dt.timedelta(seconds=seconds))

    async def refresh(self) -> None:
        for name, source in tuple(self.keys._sources.items()):
            await self.keys._refresh(name, source)

    def kids(self) -> list[str]:
        sets = self.keys.message()["sets"]
        assert isinstance(sets, list)
        return [key.kid for row in sets for key in parse_jwks(row["jwks"].encode())]


def run(work: Any) -> None:
    async def main() -> None:
        world = World()
        try:
            await work(world)
        finally:
            world.keys._pool.shutdown()

    asyncio.run(main())


def test_keys_are_fetched_from_where_the_release_says_and_told(server: Server) -> None:
    async def work(world: World) -> None:
        world.want(server.issuer())
        await world.refresh()
        assert world.kids() == ["r1"]
        assert parse_time(world.told[-1]["sets"][0]["until"]) == NOW + dt.timedelta(seconds=KEEP_S)
        assert world.told[-1] == world.keys.message()
        # an issuer that no release declares any more is forgotten
        world.want()
        assert world.told[-1] == {"type": "keys", "sets": []}

    run(work)


def test_a46_keys_are_kept_for_a_day_when_the_issuer_is_gone_and_no_longer(server: Server) -> None:
    async def work(world: World) -> None:
        world.want(server.issuer())
        await world.refresh()
        server.status = 503
        world.pass_time(KEEP_S - 60)
        await world.refresh()
        assert world.kids() == ["r1"]
        # what sidecars were told ends by itself
        assert parse_time(world.told[-1]["sets"][0]["until"]) == NOW + dt.timedelta(seconds=KEEP_S)
        server.status, server.body = 200, key_set(jwk(EC_KEY, "e1"))
        world.pass_time(REFRESH_S)
        await world.refresh()
        assert world.kids() == ["e1"]

    run(work)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(302, key_set(), id="A46-redirect"),
        pytest.param(500, key_set(), id="A46-error"),
        pytest.param(200, b"<html>", id="A46-no-key-set"),
        pytest.param(200, b" " * 300_000, id="A46-endless"),
    ],
)
def test_what_is_no_answer_gives_no_keys(server: Server, status: int, body: bytes) -> None:
    async def work(world: World) -> None:
        server.status, server.body = status, body
        world.want(server.issuer())
        await world.refresh()
        assert world.kids() == []

    run(work)


def test_a46_an_empty_set_holds_no_keys(server: Server) -> None:
    async def work(world: World) -> None:
        world.want(server.issuer())
        await world.refresh()
        server.body = b'{"keys": []}'
        world.pass_time(REFRESH_S)
        await world.refresh()
        assert world.kids() == []

    run(work)


def test_a_server_that_the_declared_authorities_do_not_vouch_for_is_not_believed(server: Server) -> None:
    async def work(world: World) -> None:
        world.want(server.issuer(ca=trustme.CA().cert_pem.bytes().decode()))
        await world.refresh()
        assert world.kids() == []

    run(work)


def test_a_missing_key_makes_us_ask_again_but_not_at_will(server: Server) -> None:
    async def work(world: World) -> None:
        issuer = server.issuer()
        world.want(issuer)
        await world.refresh()
        server.body = key_set(jwk(RSA_KEY, "r1"), jwk(EC_KEY, "e1"))
        world.pass_time(1)
        for _ in range(20):
            world.keys.missed([issuer.source, "another", 7])
            await world.refresh()
        assert (server.asked, world.kids()) == (1, ["r1"])
        world.pass_time(AGAIN_S)
        await world.refresh()
        assert (server.asked, world.kids()) == (2, ["r1", "e1"])
        # and that was that
        world.pass_time(AGAIN_S)
        await world.refresh()
        assert server.asked == 2

    run(work)


@contextlib.asynccontextmanager
async def running(keys: IssuerKeys) -> AsyncIterator[None]:
    task = asyncio.ensure_future(keys.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_an_issuer_that_is_declared_later_is_asked_at_once(server: Server) -> None:
    async def main() -> None:
        told = asyncio.Event()
        keys = IssuerKeys(ManualClock(NOW), lambda message: told.set() if message["sets"] else None)
        async with running(keys):
            await asyncio.sleep(0)
            keys.want([PolicySet(issuers=(server.issuer(),))])
            await asyncio.wait_for(told.wait(), 60)

    asyncio.run(main())
