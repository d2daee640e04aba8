import asyncio
import os
import pathlib
import signal
import sys

import pytest

from ca.keys import KeyAlgorithm, generate
from ca.rotation import Kind
from ca.trustmaking import fingerprint
from ca.upstream.chain import accept, build_csr
from limen.above import Above, open_above
from mesh.clock import SystemClock
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey
from tests.doors import Doors
from tests.limen.nested import allow, nested, open_below, put_token
from tests.world import DOMAIN, World

WRAPPING = WrappingKey(b"w" * 32, beside_state=False)
KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, TrustDomain(DOMAIN))


def open_it(folder: pathlib.Path, url: str, token: pathlib.Path | None, domain: str = DOMAIN) -> Above:
    return open_above(
        folder / "above", WRAPPING, url=url, token=token, trust_domain=TrustDomain(domain), clock=SystemClock()
    )


def code_of(work: object) -> str:
    with pytest.raises(Problem) as caught:
        work()  # type: ignore[operator]
    return caught.value.code


def test_it_joins_once_asks_and_comes_back_without_the_token(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = put_token(tmp_path, allow(world_now)["token"])
            found = await asyncio.to_thread(open_it, tmp_path, doors.url, token)
            now = SystemClock().now()
            answer = await asyncio.to_thread(found.mint, CSR, now)
            accepted = accept(answer, KEY, TrustDomain(DOMAIN), now, upstream=found.name)
            assert accepted.roots == world_now.app.bundle().x509_authorities
            assert answer.state == world_now.app._authority.trust
            token.unlink()
            again = await asyncio.to_thread(open_it, tmp_path, doors.url, token)
            assert (await asyncio.to_thread(again.mint, CSR, now)).chain == answer.chain

    asyncio.run(run())


def test_a_token_of_an_agent_lets_no_server_in(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = put_token(tmp_path, doors.token())
            found = await asyncio.to_thread(open_it, tmp_path, doors.url, token)
            with pytest.raises(Forbidden, match="LM1629"):
                await asyncio.to_thread(found.mint, CSR, SystemClock().now())

    asyncio.run(run())


def test_removed_it_is_refused_and_allowed_again_it_needs_the_new_token(
    world_now: World, tmp_path: pathlib.Path
) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = put_token(tmp_path, allow(world_now)["token"])
            found = await asyncio.to_thread(open_it, tmp_path, doors.url, token)
            world_now.app.downstreams.remove("eu", actor="ada", reason="", is_forced=True, is_dry=False)
            with pytest.raises(Problem, match=r"LM1612|LM1613"):
                await asyncio.to_thread(found.mint, CSR, SystemClock().now())
            again = allow(world_now)["token"]
            with pytest.raises(Problem, match=r"LM1612|LM1613"):
                await asyncio.to_thread(found.mint, CSR, SystemClock().now())
            token.write_text(again)
            back = await asyncio.to_thread(open_it, tmp_path, doors.url, token)
            assert (await asyncio.to_thread(back.mint, CSR, SystemClock().now())).chain

    asyncio.run(run())


def test_nobody_there_and_no_token_are_said(tmp_path: pathlib.Path) -> None:
    assert code_of(lambda: open_it(tmp_path, "https://127.0.0.1:1", None)) == "LM1630"
    assert code_of(lambda: open_it(tmp_path, "https://127.0.0.1:1", put_token(tmp_path, "x"))) == "LM1207"


def test_a_token_that_others_may_read_is_refused(tmp_path: pathlib.Path) -> None:
    path = put_token(tmp_path, "x")
    os.chmod(path, 0o644)
    assert code_of(lambda: open_it(tmp_path, "https://127.0.0.1:1", path)) == "LM1607"


def test_a_server_of_another_trust_domain_is_no_upstream(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = put_token(tmp_path, allow(world_now)["token"])
            with pytest.raises(Forbidden, match="LM1612"):
                await asyncio.to_thread(open_it, tmp_path, doors.url, token, "other.test")

    asyncio.run(run())


def test_another_key_in_the_servers_place_is_refused(
    world_now: World, tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever answers at the address has to hold the key that the token pins."""
    from tests.doors import at_present
    from tests.world import make_world

    async def run() -> None:
        other = at_present(make_world(tmp_path_factory.mktemp("other") / "state"))
        try:
            async with Doors(other) as doors:
                token = put_token(tmp_path, allow(world_now)["token"])
                with pytest.raises(Forbidden, match="LM3442"):
                    await asyncio.to_thread(open_it, tmp_path, doors.url, token)
        finally:
            other.app.close()

    asyncio.run(run())


def test_a_trust_state_that_the_pinned_key_did_not_sign_is_refused(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            with pytest.raises(Invalid, match="LM1614"):
                found.follower.above.read(found.below._authority.signed_trust)
            assert found.follower.above.read(world_now.app._authority.signed_trust).sequence

    asyncio.run(run())


def test_an_away_server_is_said_and_the_request_kept(world_now: World, tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        async with nested(world_now, tmp_path) as found:
            await found.doors.server.stop(0)
            with pytest.raises(Unavailable, match="LM1613"):
                await asyncio.to_thread(found.follower.above.mint, CSR, SystemClock().now())
            assert found.below._authority.active(Kind.ISSUING)

    asyncio.run(run())


DIES = """
import os, pathlib, signal, sys
from ca import slotstore
from tests.limen.nested import open_below
slotstore.put_slot = lambda *found, **more: os.kill(os.getpid(), signal.SIGKILL)
open_below(pathlib.Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.system
@pytest.mark.slow
def test_kill_9_between_asking_and_recording_leaves_one_certificate_and_the_same_key(
    world_now: World, tmp_path: pathlib.Path
) -> None:
    async def run() -> None:
        async with Doors(world_now) as doors:
            token = put_token(tmp_path, allow(world_now)["token"])
            words = [str(tmp_path / "below"), f"limen:url={doors.url},token={token}"]
            for _ in range(2):
                child = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, *words)
                assert await child.wait() == -signal.SIGKILL
            (row,) = world_now.app.downstreams.show()
            (given,) = row["authorities"]
            below = await asyncio.to_thread(open_below, tmp_path / "below", words[1])
            own = below._authority.active(Kind.ISSUING)
            assert fingerprint(own.certificates[0])[:16] == given["id"]
            assert len(world_now.app.downstreams.show()[0]["authorities"]) == 1
            below.close()

    asyncio.run(run())
