"""SPIFFE_Federation.md for the side that serves: our own bundle endpoint, in both profiles, asked by strangers.

The endpoint is the server's own code on real TLS ports; the clients are the standard library, and our own fetcher.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

from ca.federation import WELL_KNOWN, Profile, Relationship
from ca.rotation import Kind
from limen import bundlefetch, tlsport
from limen.api.wellknown import FRESH_S, Documents, wellknown_api
from limen.serve import _listen, _uvicorn
from mesh.bundle import TrustBundle, parse_bundle
from mesh.clock import SystemClock
from mesh.spiffe import SpiffeId
from mesh.tls import peer_chain
from mesh.x509svid import verify_x509_svid
from tests.limen.test_authorities import live, report
from tests.world import World

CA = trustme.CA()
F = pytest.mark.parametrize
P = pytest.param
OWN_ID = "spiffe://world.test/limen/server"


@dataclasses.dataclass
class Served:
    """A server's two ports, and what a stranger sees there."""

    world: World
    ports: dict[str, int]

    def bundle(self) -> TrustBundle:
        return self.world.app.bundle()

    def relationship(self, profile: str) -> Relationship:
        is_web = profile == "https_web"
        return Relationship(
            trust_domain=self.bundle().trust_domain,
            url=f"https://127.0.0.1:{self.ports[profile]}{WELL_KNOWN}",
            profile=Profile(profile),
            endpoint_id=None if is_web else SpiffeId.parse(OWN_ID),
            web_roots=CA.cert_pem.bytes().decode() if is_web else "",
        )

    async def fetch(self, profile: str, verifier: TrustBundle | None = None) -> TrustBundle:
        return await bundlefetch.fetch(self.relationship(profile), verifier, SystemClock().now, 60)

    def context(self, profile: str) -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if profile == "https_web":
            CA.configure_trust(found)
        else:
            found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
        return found

    def get(self, profile: str, context: ssl.SSLContext | None = None) -> tuple[int, dict[str, str], bytes]:
        """Ask as a stranger without any credential does."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.ports[profile], timeout=60, context=context or self.context(profile)
        )
        with contextlib.closing(connection):
            connection.request("GET", WELL_KNOWN)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    async def newest(self, profile: str) -> TrustBundle:
        """What is served when it is as new as it has to be: a document is kept for a second at most."""
        async with asyncio.timeout(60 * FRESH_S):
            while True:
                _, _, data = await asyncio.to_thread(self.get, profile)
                found = parse_bundle(self.bundle().trust_domain, data)
                if found.digest == self.bundle().digest:
                    return found
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(world: World) -> AsyncIterator[Served]:
    world.app.svid.renew()
    issued = CA.issue_cert("127.0.0.1", "localhost")
    web = tlsport.context_of(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    with ThreadPoolExecutor(1) as worker:
        api = wellknown_api(Documents(world.app.bundle), worker)
        ports, servers = {}, []
        for profile, context in (("https_web", web), ("https_spiffe", world.app.svid.context)):
            sock = _listen("127.0.0.1", 0)
            ports[profile] = sock.getsockname()[1]
            servers.append((_uvicorn(api, context=context), sock))
        tasks = [asyncio.ensure_future(server.serve(sockets=[sock])) for server, sock in servers]
        try:
            async with asyncio.timeout(60):
                while not all(server.started for server, _ in servers):
                    await asyncio.sleep(0)
            yield Served(world, ports)
        finally:
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*tasks)


def run(world: World, work: Callable[[Served], Any]) -> None:
    async def main() -> None:
        async with asyncio.timeout(250), serving(world) as found:
            await work(found)

    asyncio.run(main())


BOTH = ["https_web", "https_spiffe"]


@F("profile", [P(name, id=f"F-1-served-{name}") for name in BOTH])
def test_both_profiles_are_served(profile: str, world_now: World) -> None:
    async def work(served: Served) -> None:
        found = await served.fetch(profile, served.bundle())
        assert found.digest == served.bundle().digest

    run(world_now, work)


@F(
    ("version", "ciphers", "is_spoken"),
    [
        P(ssl.TLSVersion.TLSv1_3, "", True, id="F-2-served-1.3"),
        P(ssl.TLSVersion.TLSv1_2, "", True, id="F-2-served-1.2"),
        P(ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False, id="F-2-served-1.1"),
        P(ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-SHA256", False, id="F-2-served-no-forward-secrecy"),
        P(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA", False, id="F-2-served-cbc"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_is_mozillas_intermediate_or_better(
    version: ssl.TLSVersion, ciphers: str, world_now: World, *, is_spoken: bool
) -> None:
    async def work(served: Served) -> None:
        for profile in BOTH:
            context = served.context(profile)
            if ciphers:
                context.set_ciphers(ciphers)
            context.minimum_version = context.maximum_version = version
            if is_spoken:
                assert (await asyncio.to_thread(served.get, profile, context))[0] == 200
                continue
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(served.get, profile, context)

    run(world_now, work)


@F("statement", ["F-7-served", "F-8-served", "F-9-served", "F-10-served"])
def test_a_stranger_gets_the_document_itself(statement: str, world_now: World) -> None:
    async def work(served: Served) -> None:
        for profile in BOTH:
            # without a certificate, a header or a cookie (F-7)
            status, headers, data = await asyncio.to_thread(served.get, profile)
            document = json.loads(data.decode("utf-8"))
            assert {
                "F-7-served": status == 200 and "www-authenticate" not in headers,
                "F-8-served": parse_bundle(served.bundle().trust_domain, data).digest == served.bundle().digest,
                "F-9-served": headers["content-type"] == "application/json" and len(document["keys"]) == 2,
                # there is no redirect to follow
                "F-10-served": status == 200 and "location" not in headers,
            }[statement]

    run(world_now, work)


@F("statement", ["B-3-served", "B-4-served", "F-8-served-newest"])
def test_what_changed_is_served_with_a_higher_sequence(statement: str, world_now: World) -> None:
    async def work(served: Served) -> None:
        found = [await served.newest("https_web")]
        for kind in (Kind.JWT, Kind.ROOT, Kind.JWT):
            served.world.app.authorities.rotate(kind, actor="test", is_forced=True)
            found.append(await served.newest("https_web"))
        sequences = [item.sequence or 0 for item in found]
        assert sequences == sorted(set(sequences))
        assert len({item.digest for item in found}) == len(found)
        assert all(item.refresh_hint for item in found)

    run(world_now, work)


@F("statement", ["F-12-served"])
def test_the_endpoint_shows_an_svid_of_its_own_id(statement: str, world_now: World) -> None:
    async def work(served: Served) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.ports["https_spiffe"], ssl=served.context("https_spiffe"), server_hostname=""
        )
        chain = peer_chain(writer.get_extra_info("ssl_object"))
        writer.close()
        del reader
        own = served.bundle()
        assert str(verify_x509_svid(chain, {own.trust_domain: own}, SystemClock().now()).spiffe_id) == OWN_ID

    run(world_now, work)


@F("statement", ["F-13-served"])
def test_who_holds_the_latest_bundle_follows_every_rotation_of_the_root(statement: str, world_now: World) -> None:
    async def work(served: Served) -> None:
        first = held = await served.fetch("https_spiffe", served.bundle())
        for _ in range(3):
            served.world.app.authorities.rotate(Kind.ROOT, actor="test", is_forced=True)
            served.world.app.svid.renew()
            # proven by what was fetched before the rotation
            held = await served.fetch("https_spiffe", held)
            async with asyncio.timeout(60 * FRESH_S):
                while held.digest != served.bundle().digest:
                    held = await served.fetch("https_spiffe", held)
                    await asyncio.sleep(0.05)
        # the first root is trusted still, beside three that were new
        assert set(first.x509_authorities) < set(held.x509_authorities)
        assert len(held.x509_authorities) == 4

    run(world_now, work)


@F("kind", [P(Kind.ROOT, id="F-14-x509"), P(Kind.JWT, id="F-14-jwt")])
def test_a_key_is_published_before_it_signs_and_stays_while_what_it_signed_lives(kind: Kind, world_now: World) -> None:
    async def work(served: Served) -> None:
        app = served.world.app

        def keys(found: TrustBundle) -> set[bytes]:
            return set(found.x509_authorities if kind is Kind.ROOT else found.jwt_authorities)

        node = live(served.world)
        report(served.world, node)
        before, old = await served.newest("https_web"), app.svid._chain
        name = str(app.authorities.rotate(kind, actor="test", is_forced=False)["authority"])
        published = await served.newest("https_web")
        # published, and signing nothing as long as an agent has not said that it knows it
        assert len(keys(published)) == 2
        assert keys(before) < keys(published)
        assert app.authorities.progress(name)["state"] == "prepared"
        assert not app.svid.renew()
        report(served.world, node)
        served.world.clock.advance(dt.timedelta(seconds=5))
        app.tick()
        assert app.authorities.progress(name)["state"] == "active"
        app.svid.renew()
        after, now = await served.newest("https_web"), SystemClock().now()
        # the bundle that was published before it signed vouches for what it signs
        assert verify_x509_svid(app.svid._chain, {published.trust_domain: published}, now)
        # and what the old one signed is vouched for after
        assert keys(before) < keys(after)
        assert verify_x509_svid(old, {after.trust_domain: after}, now)

    run(world_now, work)
