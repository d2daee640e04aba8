import asyncio
import datetime as dt
import functools
import json

import jwt
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ca.jwtmint import JwtSigner, mint_jwt_svid
from ca.keys import new_key
from ca.trustmaking import public_jwk
from enforcer import jwtsvids
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt, JwtSvids
from mesh.bundle import TrustBundle
from mesh.clock import ManualClock, format_time
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.x509svid import X509Svid
from tests.fuzz.mutation import mutant

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
WEB = SpiffeId.parse("spiffe://corp.test/web")
MINUTE = dt.timedelta(minutes=1)


def identity(path: str = "/web", facts: tuple[tuple[str, str], ...] = (("unix:uid", "7"),)) -> Identity:
    name = SpiffeId.parse(f"spiffe://corp.test{path}")
    svid = X509Svid(spiffe_id=name, chain_der=(), key_pkcs8_der=b"", not_after=NOW)
    return Identity(svid=svid, rule="r", hint="h", direct=True, renew_at=NOW, facts=facts)


class Server:
    """What the server answers: real tokens of a real key, until it is told otherwise."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.signer = JwtSigner(kid="k1", key=new_key())
        self.asks: list[pb.JwtAsk] = []
        self.is_away, self.code = False, ""
        self.kids = ["k1"]
        self.held = JwtSvids(self.issue, self.bundle, self.clock)

    def bundle(self) -> TrustBundle:
        keys = tuple(public_jwk(kid, self.signer.key.public_key()) for kid in self.kids)  # type: ignore[arg-type]
        return TrustBundle(trust_domain=TrustDomain("corp.test"), jwt_authorities=keys)

    async def issue(self, asks: list[pb.JwtAsk]) -> list[pb.IssuedJwt]:
        self.asks += asks
        if self.is_away:
            raise Unavailable("LM3444", address="x", reason="away")
        if self.code:
            return [pb.IssuedJwt(ref=asks[0].ref, code=self.code, facts={"count": "1"})]
        token, end = mint_jwt_svid(
            SpiffeId.parse(asks[0].spiffe_id),
            list(asks[0].audiences),
            self.signer,
            now=self.clock.now(),
            life=5 * MINUTE,
            jti=str(len(self.asks)),
        )
        return [pb.IssuedJwt(ref=asks[0].ref, spiffe_id=asks[0].spiffe_id, token=token, not_after=format_time(end))]

    def fetch(self, *audiences: str, who: Identity | None = None) -> HeldJwt:
        return asyncio.run(self.held.fetch(who or identity(), audiences or ("a",)))


def test_a_token_is_for_the_facts_and_audiences_that_it_was_asked_for() -> None:
    server = Server()
    found = server.fetch("a", "b", "a")
    (ask,) = server.asks
    assert (list(ask.audiences), ask.spiffe_id) == (["a", "b"], str(WEB))
    assert [(fact.key, fact.value) for fact in ask.facts] == [("unix:uid", "7")]
    claims = jwt.decode(found.token, options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == (str(WEB), ["a", "b"])
    assert "eyJ" not in repr(found)


def test_it_is_kept_for_half_its_life_and_for_nobody_else() -> None:
    server = Server()
    first = server.fetch()
    server.clock.advance(2 * MINUTE)
    assert server.fetch() is first
    others = [
        server.fetch("b"),
        server.fetch(who=identity("/db")),
        server.fetch(who=identity(facts=(("unix:uid", "8"),))),
    ]
    assert len({first.token, *(item.token for item in others)}) == 4
    server.clock.advance(MINUTE)
    assert server.fetch().token != first.token


def test_while_the_server_is_away_a_valid_token_is_served_and_an_expired_one_never() -> None:
    server = Server()
    first = server.fetch()
    server.is_away = True
    server.clock.advance(4 * MINUTE)
    assert server.fetch() is first
    server.clock.advance(MINUTE)
    with pytest.raises(Unavailable, match="LM3444"):
        server.fetch()


def test_a_refusal_ends_what_was_kept() -> None:
    server = Server()
    server.fetch()
    server.clock.advance(3 * MINUTE)
    server.code = "LM1210"
    with pytest.raises(Forbidden, match="LM1210"):
        server.fetch()
    server.code, server.is_away = "", True
    with pytest.raises(Unavailable):
        server.fetch()


def test_a_token_whose_key_left_the_bundle_is_not_served() -> None:
    server = Server()
    first = server.fetch()
    server.kids = ["k2"]
    server.signer = JwtSigner(kid="k2", key=new_key())
    assert server.fetch().token != first.token
    assert json.loads(server.bundle().jwt_authorities[0])["kid"] == "k2"


def test_forgetting_asks_again_and_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    first = server.fetch()
    server.held.forget()
    assert server.fetch().token != first.token
    monkeypatch.setattr(jwtsvids, "CACHE_SIZE", 2)
    for name in ("b", "c", "d"):
        server.fetch(name)
    assert len(server.held._held) == 2


def token() -> pb.IssuedJwt:
    server = Server()
    ask = pb.JwtAsk(ref="1", spiffe_id=str(WEB), audiences=["a"])
    (found,) = asyncio.run(server.issue([ask]))
    return found


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [token(), token()],
        [pb.IssuedJwt()],
        [pb.IssuedJwt(token="a.b.c", not_after="2026-11-24T12:05:00Z")],
        [pb.IssuedJwt(token=token().token, not_after="tomorrow")],
    ],
    ids=["none", "two", "nothing", "no-token", "no-end"],
)
def test_an_answer_that_cannot_be_read_is_refused_and_what_is_held_goes_on(answers: list[pb.IssuedJwt]) -> None:
    server = Server()
    held = server.fetch()
    server.clock.advance(3 * MINUTE)

    async def issue(asks: list[pb.JwtAsk]) -> list[pb.IssuedJwt]:
        del asks
        return answers

    server.held._issue = issue
    assert server.fetch() == held
    with pytest.raises(Unavailable, match="LM3453"):
        server.fetch("b")


def test_a_refusal_with_a_code_of_another_version_is_one() -> None:
    server = Server()
    server.code = "LM9999"
    with pytest.raises(Forbidden, match="LM3454"):
        server.fetch()


@given(st.integers(min_value=0, max_value=1 << 32))
def test_any_answer_is_a_token_or_a_problem(number: int) -> None:
    try:
        answer = pb.IssuedJwt.FromString(mutant([token_bytes()], number))
        assert jwtsvids.read_issued_jwt([answer], NOW).token
    except DecodeError:
        # gRPC refuses it
        return
    except Problem as problem:
        assert str(problem)


@functools.cache
def token_bytes() -> bytes:
    found: bytes = token().SerializeToString()
    return found
