"""Who may fetch policy bundles, and what they get."""

import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from limen.bearers import Unauthenticated
from limen.opabundles import AUDIENCE
from limen.opening import open_app
from limen.values import JwtAsk
from mesh.problems import Forbidden, Invalid, NotFound
from policyengine.compile.opabundle import SIGNATURES, claims_of
from tests.policyengine.compile.test_opabundle import unpacked
from tests.world import RULES, World

FACTS = (("unix:uid", "1000"),)


def header(world: World, audience: str = AUDIENCE) -> str:
    world.rules(RULES)
    (found,) = world.app.issue_jwts(world.join(), [JwtAsk(ref="1", facts=FACTS, audiences=(audience,), spiffe_id="")])
    return f"Bearer {found.token}"


def test_a_named_reader_is_let_in(world: World) -> None:
    world.app.policy_bundles.admit(("spiffe://world.test/user/**",))
    assert world.app.policy_bundles.authorize(header(world)) == "spiffe://world.test/user/1000"


def test_without_readers_nobody_is(world: World) -> None:
    with pytest.raises(Forbidden, match="LM2622"):
        world.app.policy_bundles.authorize(header(world))


@pytest.mark.parametrize("given", [None, "", "Bearer", "Basic abc", "Bearer abc", "Bearer a.b.c"])
def test_a_token_that_is_none(world: World, given: str | None) -> None:
    with pytest.raises(Unauthenticated, match="LM2621"):
        world.app.policy_bundles.authorize(given)


def test_a_token_for_somebody_else_and_an_old_one(world: World) -> None:
    world.app.policy_bundles.admit(("spiffe://world.test/**",))
    with pytest.raises(Unauthenticated, match="LM2621"):
        world.app.policy_bundles.authorize(header(world, "another"))
    old = header(world)
    world.clock.advance(dt.timedelta(hours=1))
    with pytest.raises(Unauthenticated, match="LM2621"):
        world.app.policy_bundles.authorize(old)


def test_a_reader_that_is_no_pattern_is_refused(world: World) -> None:
    with pytest.raises(Invalid, match="LM2620"):
        world.app.policy_bundles.admit(("opa",))


def test_the_bundle_is_the_active_snapshot_signed(world: World) -> None:
    bundles = world.app.policy_bundles
    with pytest.raises(NotFound, match="LM2623"):
        bundles.bundle()
    snapshot = world.publish()
    found = bundles.bundle()
    assert found.tag == f'"{snapshot}"'
    assert bundles.bundle() is found
    files = unpacked(found.data)
    (token,) = json.loads(files.pop(SIGNATURES))["signatures"]
    key = load_pem_public_key(bundles.public_pem.encode())
    assert jwt.decode(token, key, algorithms=["ES256"]) == claims_of(files)  # type: ignore[arg-type]  # an EC key
    assert jwt.get_unverified_header(token)["kid"] == "limen"
    assert json.loads(files[".manifest"])["revision"] == snapshot


def test_the_key_stays_when_the_server_comes_back(world: World) -> None:
    before = world.app.policy_bundles.public_pem
    world.app.close()
    reviewers = next(world.state.glob("reviewers-*.json"))
    world.app = open_app(world.state, trust_domain="world.test", database=None, reviewers=reviewers, clock=world.clock)
    assert world.app.policy_bundles.public_pem == before
