"""SPIFFE_Workload_API.md, statement by statement: each test carries the id of the one it shows (W-1 to W-18).

A real client against the agent's real socket; W-1 for the methods that are not served is in test_workload_endpoint.py.
"""

import asyncio
import base64
import dataclasses
import datetime as dt
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from ca.jwtmint import JwtSigner, mint_jwt_svid
from ca.trustmaking import public_jwk
from enforcer.identity import Identity
from enforcer.jwtsvids import HeldJwt
from enforcer.order import Order
from enforcer.workloadapi import WorkloadApi
from limen.conformance import probe
from mesh.bundle import TrustBundle
from mesh.jwtsvid import JwtSvidError, verify_jwt_svid
from mesh.problems import Forbidden, Unavailable
from mesh.proto import workload_pb2 as pb
from mesh.spiffe import SpiffeId
from mesh.x509svid import SvidError, X509Svid, split_chain, verify_x509_svid
from tests.enforcer.test_workloadapi import HEADER, Provider, Served, code_of, run
from tests.limen.conformance.servers import Workloads, serving

P = pytest.param
FRONT, BACK = "spiffe://corp.test/ns/web/sa/front", "spiffe://corp.test/ns/web/sa/back"
STREAMS = {
    "FetchX509SVID": pb.X509SVIDRequest(),
    "FetchX509Bundles": pb.X509BundlesRequest(),
    "FetchJWTBundles": pb.JWTBundlesRequest(),
}


class Issuing(Provider):
    """A provider with an intermediate in its chains, and with JWT authorities that sign real tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = self.pki.signer(self.root, subject="middle", **self.window)
        self.signer = JwtSigner(kid="k1", key=ec.generate_private_key(ec.SECP256R1()))
        self.federates_with: tuple[str, ...] = ("other.test",)

    def identity(self, path: str, hint: str) -> Identity:
        leaf = self.pki.leaf(path, issuer=self.middle, **self.window)
        svid = X509Svid(
            spiffe_id=SpiffeId.parse(f"spiffe://corp.test{path}"),
            chain_der=(leaf.der, self.middle.der),
            key_pkcs8_der=leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            not_after=leaf.certificate.not_valid_after_utc,
        )
        return Identity(
            svid=svid, rule="r", hint=hint, direct=True, renew_at=svid.not_after, federates_with=self.federates_with
        )

    def bundles(self) -> dict[str, TrustBundle]:
        found = super().bundles()
        jwk = public_jwk("k1", self.signer.key.public_key())  # type: ignore[arg-type]
        return {**found, "corp.test": dataclasses.replace(found["corp.test"], jwt_authorities=(jwk,))}

    async def jwt_svid(self, identity: Identity, audiences: Sequence[str]) -> HeldJwt:
        held = await super().jwt_svid(identity, audiences)
        token, _ = mint_jwt_svid(
            identity.svid.spiffe_id, audiences, self.signer, now=self.now(), life=dt.timedelta(minutes=5), jti="1"
        )
        return dataclasses.replace(held, token=token)


def issuing(folder: pathlib.Path, work: Any) -> None:
    run(folder, work, Issuing())


async def first(stub: Any, method: str = "FetchX509SVID") -> Any:
    call = getattr(stub, method)(STREAMS[method], metadata=HEADER)
    found = await anext(aiter(call))
    call.cancel()
    return found


# -- the API


@pytest.mark.parametrize("method", [P(name, id=f"W-1-{name}") for name in probe.ANSWERS])
def test_both_profiles_are_served(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        if method in STREAMS:
            assert await first(stub, method)
            return
        (given,) = (await stub.FetchJWTSVID(pb.JWTSVIDRequest(audience=["me"]), metadata=HEADER)).svids
        if method == "ValidateJWTSVID":
            asked = pb.ValidateJWTSVIDRequest(audience="me", svid=given.svid)
            assert (await stub.ValidateJWTSVID(asked, metadata=HEADER)).spiffe_id == FRONT

    issuing(tmp_path, work)


# name: {number: (field, type, repeated)}, as §5 and §6 have them
MESSAGES: dict[str, dict[int, tuple[str, str, bool]]] = {
    "X509SVIDRequest": {},
    "X509SVIDResponse": {
        1: ("svids", "X509SVID", True), 2: ("crl", "bytes", True), 3: ("federated_bundles", "map<string, bytes>", True),
    },
    "X509SVID": {
        1: ("spiffe_id", "string", False), 2: ("x509_svid", "bytes", False), 3: ("x509_svid_key", "bytes", False),
        4: ("bundle", "bytes", False), 5: ("hint", "string", False),
    },
    "X509BundlesRequest": {},
    "X509BundlesResponse": {1: ("crl", "bytes", True), 2: ("bundles", "map<string, bytes>", True)},
    "JWTSVIDRequest": {1: ("audience", "string", True), 2: ("spiffe_id", "string", False)},
    "JWTSVIDResponse": {1: ("svids", "JWTSVID", True)},
    "JWTSVID": {1: ("spiffe_id", "string", False), 2: ("svid", "string", False), 3: ("hint", "string", False)},
    "JWTBundlesRequest": {},
    "JWTBundlesResponse": {1: ("bundles", "map<string, bytes>", True)},
    "ValidateJWTSVIDRequest": {1: ("audience", "string", False), 2: ("svid", "string", False)},
    "ValidateJWTSVIDResponse": {1: ("spiffe_id", "string", False), 2: ("claims", "google.protobuf.Struct", False)},
}  # fmt: skip


def type_of(field: Any) -> str:
    if field.message_type is None:
        return {field.TYPE_STRING: "string", field.TYPE_BYTES: "bytes"}.get(field.type, str(field.type))
    if field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{type_of(key)}, {type_of(value)}>"
    return str(field.message_type.full_name)


@pytest.mark.parametrize("name", [P(name, id=f"W-2-{name}") for name in MESSAGES])
def test_a_message_has_the_standards_fields_and_no_other(name: str) -> None:
    found = pb.DESCRIPTOR.message_types_by_name[name]
    assert {item.number: (item.name, type_of(item), item.is_repeated) for item in found.fields} == MESSAGES[name]
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(MESSAGES)


# -- streams


@pytest.mark.parametrize("method", [P(name, id=f"W-3-{name}") for name in STREAMS])
def test_every_message_is_the_whole_state_also_when_a_part_of_it_changed(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        provider = found.provider
        assert isinstance(provider, Issuing)
        provider.paths, provider.hints = ["/a", "/b"], ["", ""]
        call = getattr(stub, method)(STREAMS[method], metadata=HEADER)
        stream = aiter(call)
        before = await anext(stream)
        # one of two SVIDs is renewed, and one of two bundles changes
        del provider.made["/a"]
        provider.signer = JwtSigner(kid="k1", key=ec.generate_private_key(ec.SECP256R1()))
        provider.root = provider.pki.signer(subject="next root", **provider.window)
        await provider.change()
        after = await anext(stream)
        assert after != before
        if method == "FetchX509SVID":
            assert [item.spiffe_id for item in after.svids] == ["spiffe://corp.test/a", "spiffe://corp.test/b"]
            assert after.svids[0].x509_svid != before.svids[0].x509_svid
            assert after.svids[1].x509_svid == before.svids[1].x509_svid
            assert after.federated_bundles == before.federated_bundles != {}
        else:
            assert after.bundles["spiffe://corp.test"] != before.bundles["spiffe://corp.test"]
            assert after.bundles["spiffe://other.test"] == before.bundles["spiffe://other.test"]
        call.cancel()

    issuing(tmp_path, work)


@pytest.mark.parametrize("method", [P(name, id=f"W-4-{name}") for name in STREAMS])
def test_a_stream_answers_at_once_and_then_to_changes_alone(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        provider = found.provider
        # nothing happens at the provider: the request alone is answered, also on a connection that was answered before
        assert await first(stub, method) == await first(stub, method)
        call = getattr(stub, method)(STREAMS[method], metadata=HEADER)
        stream = aiter(call)
        await anext(stream)
        asked = len(provider.callers)
        # an event that changes nothing for this caller is looked at, and not sent
        await provider.change()
        while len(provider.callers) == asked:
            await asyncio.sleep(0)
        jwk = provider.bundles()["corp.test"].jwt_authorities
        provider.other = dataclasses.replace(provider.other, x509_authorities=(), jwt_authorities=jwk)
        await provider.change()
        after = await anext(stream)
        bundles = after.federated_bundles if method == "FetchX509SVID" else after.bundles
        # the first message after the first is of the second event
        assert (b"k1" in bundles["spiffe://other.test"]) is (method == "FetchJWTBundles")
        assert provider.version == 2
        call.cancel()

    issuing(tmp_path, work)


@pytest.mark.parametrize("method", [P(name, id=f"W-5-{name}") for name in STREAMS])
def test_what_is_taken_away_is_not_in_the_next_message(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        provider = found.provider
        assert isinstance(provider, Issuing)
        call = getattr(stub, method)(STREAMS[method], metadata=HEADER)
        stream = aiter(call)
        field = "federated_bundles" if method == "FetchX509SVID" else "bundles"
        assert "spiffe://other.test" in getattr(await anext(stream), field)
        provider.federates_with = ()
        provider.made.clear()
        await provider.change()
        assert "spiffe://other.test" not in getattr(await anext(stream), field)
        call.cancel()

    issuing(tmp_path, work)


class Emptied(Workloads):
    """Gives everything to the first who asks, and to the next a message in which all fields have their default."""

    def __init__(self) -> None:
        super().__init__("")
        self.served = 0

    def serve(self, message: Any, context: Any) -> Any:
        self.served += 1
        yield from super().serve(message if self.served <= len(STREAMS) + 1 else type(message)(), context)


@pytest.mark.parametrize("statement", [P("client", id="W-5-client")])
def test_our_client_keeps_nothing_of_what_was_said_before(
    statement: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "STAYS_S", 0.05)
    with serving(tmp_path, Emptied()) as address:
        asked = probe.Probe(address)
        before, after = probe.gather(asked), probe.gather(asked)
        asked.close()
    assert (len(before.x509.message.svids), len(before.x509_bundles.message.bundles)) == (1, 1)
    assert (len(after.x509.message.svids), len(after.x509_bundles.message.bundles)) == (0, 0)
    assert (len(before.jwt_bundles.message.bundles), len(after.jwt_bundles.message.bundles)) == (1, 0)


# -- X.509


@pytest.mark.parametrize("statement", ["W-7", "W-8", "W-9", "W-10", "W-11"])
def test_an_x509_svid_comes_with_its_key_and_its_bundles(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        provider = found.provider
        provider.paths, provider.hints = ["/a", "/b", "/c"], ["x", "x", "y"]
        message = await first(stub)
        again = await first(stub)
        own = {TrustBundle(trust_domain=provider.pki.domain).trust_domain: provider.bundles()["corp.test"]}
        names = [f"spiffe://corp.test/{name}" for name in "abc"]
        if statement == "W-7":
            assert [item.spiffe_id for item in message.svids] == names
        for item in message.svids:
            chain = split_chain(item.x509_svid)
            if statement == "W-8":
                # concatenated DER that verifies with what came with it, leaf first
                assert len(chain) == 2
                assert str(verify_x509_svid(chain, own, provider.now()).spiffe_id) == item.spiffe_id
            if statement == "W-9":
                key = load_der_private_key(item.x509_svid_key, password=None)
                assert key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == item.x509_svid_key
            if statement == "W-10":
                assert split_chain(item.bundle) == (provider.root.der,)
        if statement == "W-10":
            assert set(message.federated_bundles) == {"spiffe://other.test"}
            assert split_chain(message.federated_bundles["spiffe://other.test"]) == provider.other.x509_authorities
        if statement == "W-11":
            # once in a message, on the first; the default identity is the first, in an order that stays
            assert [item.hint for item in message.svids] == ["x", "", "y"]
            assert [item.spiffe_id for item in again.svids] == names

    issuing(tmp_path, work)


@pytest.mark.parametrize("method", [P(name, id=f"W-12-{name}") for name in STREAMS])
def test_who_is_entitled_no_more_is_told_so_in_the_stream(method: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        call = getattr(stub, method)(STREAMS[method], metadata=HEADER)
        await anext(aiter(call))
        found.provider.problem = Forbidden("LM1210", count=0)
        await found.provider.change()
        assert (await code_of(call))[0] == "PERMISSION_DENIED"
        # and one who asks anew has no empty message, but the same answer (W-7)
        assert (await code_of(getattr(stub, method)(STREAMS[method], metadata=HEADER)))[0] == "PERMISSION_DENIED"

    issuing(tmp_path, work)


# -- bundles


@pytest.mark.parametrize("method", [P(name, id=f"W-13-{name}") for name in ("FetchX509Bundles", "FetchJWTBundles")])
@pytest.mark.parametrize("federates", [True, False], ids=["federating", "alone"])
def test_bundles_hold_the_own_trust_domain(method: str, tmp_path: pathlib.Path, *, federates: bool) -> None:
    async def work(found: Served, stub: Any) -> None:
        assert isinstance(found.provider, Issuing)
        found.provider.federates_with = ("other.test",) if federates else ()
        bundles = (await first(stub, method)).bundles
        assert set(bundles) == {"spiffe://corp.test"} | ({"spiffe://other.test"} if federates else set())
        assert bundles["spiffe://corp.test"]

    issuing(tmp_path, work)


@pytest.mark.parametrize("statement", [P("x509", id="W-14-x509"), P("jwt", id="W-14-jwt")])
def test_a_bundle_vouches_for_its_own_kind_alone(statement: str) -> None:
    provider = Issuing()
    domain, now = provider.pki.domain, provider.now()
    both = provider.bundles()["corp.test"]
    x509_alone = dataclasses.replace(both, jwt_authorities=())
    jwt_alone = dataclasses.replace(both, x509_authorities=())
    leaf = provider.identity("/a", "").svid.chain_der
    token, _ = mint_jwt_svid(
        SpiffeId.parse(FRONT), ["me"], provider.signer, now=now, life=dt.timedelta(minutes=5), jti="1"
    )
    assert verify_x509_svid(leaf, {domain: x509_alone}, now)
    assert verify_jwt_svid(token, "me", {domain: jwt_alone}, now)
    if statement == "x509":
        with pytest.raises(JwtSvidError, match="LM1030"):
            verify_jwt_svid(token, "me", {domain: x509_alone}, now)
        # nor is the key of an X.509 authority one of a token: not by its name, and not without
        assert isinstance(provider.root.key, ec.EllipticCurvePrivateKey)
        for kid in ("k1", "root"):
            stolen, _ = mint_jwt_svid(
                SpiffeId.parse(FRONT), ["me"], JwtSigner(kid=kid, key=provider.root.key),
                now=now, life=dt.timedelta(minutes=5), jti="1",
            )  # fmt: skip
            with pytest.raises(JwtSvidError, match="LM1031"):
                verify_jwt_svid(stolen, "me", {domain: both}, now)
    else:
        with pytest.raises(SvidError, match="LM1018"):
            verify_x509_svid(leaf, {domain: jwt_alone}, now)
        forger = provider.pki.signer(subject="root", key=provider.signer.key, **provider.window)
        forged = provider.pki.leaf(issuer=forger, **provider.window)
        with pytest.raises(SvidError, match="LM1019"):
            verify_x509_svid([forged.der], {domain: both}, now)


@pytest.mark.parametrize("statement", [P("x509", id="W-14-x509-message"), P("jwt", id="W-15")])
def test_each_message_holds_keys_of_its_own_kind_alone(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        provider = found.provider
        if statement == "x509":
            message = await first(stub, "FetchX509Bundles")
            assert split_chain(message.bundles["spiffe://corp.test"]) == (provider.root.der,)
            return
        message = await first(stub, "FetchJWTBundles")
        keys = {name: json.loads(data)["keys"] for name, data in message.bundles.items()}
        assert [(item["use"], item["kid"]) for item in keys["spiffe://corp.test"]] == [("jwt-svid", "k1")]
        assert keys["spiffe://other.test"] == []
        assert not any("x5c" in item for every in keys.values() for item in every)

    issuing(tmp_path, work)


# -- JWT


@pytest.mark.parametrize(
    ("audiences", "named"),
    [
        P(["a"], "", id="W-16-audience"),
        P(["a", "b"], "", id="W-16-all"),
        P(["a"], FRONT, id="W-16-named"),
        P(["a"], BACK, id="W-16-named-other"),
    ],
)
def test_tokens_are_given_for_every_identity_or_the_one_that_is_named(
    tmp_path: pathlib.Path, audiences: list[str], named: str
) -> None:
    async def work(served: Served, stub: Any) -> None:
        served.provider.paths, served.provider.hints = ["/ns/web/sa/front", "/ns/web/sa/back"], ["web", "web"]
        found = await stub.FetchJWTSVID(pb.JWTSVIDRequest(audience=audiences, spiffe_id=named), metadata=HEADER)
        names = [str(item.spiffe_id) for item in found.svids]
        assert names == ([named] if named else [FRONT, BACK])
        for item in found.svids:
            claims = json.loads(base64.urlsafe_b64decode(item.svid.split(".")[1] + "=="))
            assert (claims["sub"], claims["aud"]) == (item.spiffe_id, audiences)
        # a hint stands once (W-11)
        assert [item.hint for item in found.svids].count("web") == 1

    issuing(tmp_path, work)


@pytest.mark.parametrize(
    ("request_", "problem", "code"),
    [
        P(pb.JWTSVIDRequest(), None, "INVALID_ARGUMENT", id="W-6-no-audience"),
        P(pb.JWTSVIDRequest(audience=["a", ""]), None, "INVALID_ARGUMENT", id="W-6-empty-audience"),
        P(pb.JWTSVIDRequest(audience=["a"], spiffe_id=f"{FRONT}x"), None, "PERMISSION_DENIED", id="W-16-not-its-own"),
        P(pb.JWTSVIDRequest(audience=["a"], spiffe_id="no id"), None, "PERMISSION_DENIED", id="W-16-no-id"),
        P(
            pb.JWTSVIDRequest(audience=["a"]),
            Unavailable("LM3444", address="x", reason="away"),
            "UNAVAILABLE",
            id="E-12-server-away",
        ),
        P(pb.JWTSVIDRequest(audience=["a"]), Forbidden("LM1210", count="0"), "PERMISSION_DENIED", id="W-12-no-rule"),
    ],
)
def test_tokens_are_refused_as_the_standard_says(
    tmp_path: pathlib.Path, request_: pb.JWTSVIDRequest, problem: Exception | None, code: str
) -> None:
    async def work(served: Served, stub: Any) -> None:
        served.provider.no_token = problem
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.FetchJWTSVID(request_, metadata=HEADER)
        assert caught.value.code().name == code

    issuing(tmp_path, work)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        P("FetchJWTSVID", pb.JWTSVIDRequest(), id="W-6-fetch"),
        P("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(svid="a.b.c"), id="W-6-validate-audience"),
        P("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="me"), id="W-6-validate-svid"),
    ],
)
def test_a_request_without_a_mandatory_field_is_invalid_also_of_one_without_an_identity(
    method: str, request_: Any, tmp_path: pathlib.Path
) -> None:
    async def work(served: Served, stub: Any) -> None:
        served.provider.problem = Forbidden("LM1210", count="0")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request_, metadata=HEADER)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert served.provider.callers == []

    issuing(tmp_path, work)


def changed(token: str, **claims: Any) -> str:
    head, body, signature = token.split(".")
    found = {**json.loads(base64.urlsafe_b64decode(body + "==")), **claims}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(found).encode()).rstrip(b'=').decode()}.{signature}"


@pytest.mark.parametrize("statement", ["W-17", "W-17-claims", "W-17-refuses"])
def test_tokens_are_validated_for_a_caller(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(served: Served, stub: Any) -> None:
        (given,) = (await stub.FetchJWTSVID(pb.JWTSVIDRequest(audience=["me"]), metadata=HEADER)).svids

        async def ask(svid: str, audience: str = "me") -> Any:
            return await stub.ValidateJWTSVID(pb.ValidateJWTSVIDRequest(audience=audience, svid=svid), metadata=HEADER)

        if statement == "W-17":
            assert (await ask(given.svid)).spiffe_id == FRONT
        if statement == "W-17-claims":
            claims = dict((await ask(given.svid)).claims)
            assert (claims["sub"], list(claims["aud"]), claims["jti"]) == (FRONT, ["me"], "1")
            assert claims["exp"] == int(served.provider.now().timestamp()) + 300
        if statement == "W-17-refuses":
            for svid, audience in (
                (given.svid, "you"), (changed(given.svid, sub=BACK), "me"), (changed(given.svid, exp=2**40), "me"),
                (given.svid[:-4] + "AAAA", "me"), ("", "me"), (given.svid, ""), ("a.b.c", "me"),
            ):  # fmt: skip
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(svid, audience)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    issuing(tmp_path, work)


# -- connections


@pytest.mark.parametrize("statement", [P("open", id="W-18-stays-open"), P("again", id="W-18-reconnects")])
def test_a_connection_is_kept_and_one_that_was_lost_is_served_again(statement: str, tmp_path: pathlib.Path) -> None:
    async def work(found: Served, stub: Any) -> None:
        call = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER)
        stream = aiter(call)
        before = await anext(stream)
        if statement == "open":
            # ten rotations, one after the other, in the same stream on the same connection
            for _ in range(10):
                found.provider.made.clear()
                await found.provider.change()
                before, last = await anext(stream), before
                assert before != last
            assert not call.done()
            assert len({caller.pidfd for caller in found.provider.callers}) == 1
            call.cancel()
            return
        await found.api.stop()
        assert (await code_of(call))[0] in {"UNAVAILABLE", "CANCELLED"}
        found.api = WorkloadApi(found.provider, found.path, tmp_path / "api", Order(None))
        await found.api.start()
        # the same client, on whatever connection its library makes
        again = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=HEADER, wait_for_ready=True)
        assert await anext(aiter(again)) == before
        again.cancel()

    issuing(tmp_path, work)
