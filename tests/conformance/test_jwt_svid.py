"""JWT-SVID.md, statement by statement: each test carries the id of the one it shows (J-1 to J-20)."""

import datetime as dt
import json
import pathlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.jwtmint import jwt_signer, mint_jwt_svid
from mesh.bundle import TrustBundle, parse_bundle
from mesh.jwtsvid import ALGORITHMS, JwtSvidError, verify_jwt_svid
from mesh.keysets import Source, read_source
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from tests.mesh.test_jwtsvid import CLAIMS, GOOD, KEYS, TD, b64, bundle, private, token
from tests.pki import NOW, Pki

J = pytest.param


def verdict(found: str, bundles: Any = None, audience: str = "me") -> str:
    try:
        return str(verify_jwt_svid(found, audience, bundle() if bundles is None else bundles, NOW).spiffe_id)
    except JwtSvidError as err:
        return err.code


ME = "spiffe://corp.test/a"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def json_form() -> str:
    protected, payload, signature = GOOD.split(".")
    return json.dumps({"payload": payload, "protected": protected, "signature": signature})


def expired() -> str:
    return token({**CLAIMS, "exp": int(NOW.timestamp()) - 31})


@pytest.mark.parametrize(
    ("found", "code"),
    [
        J(json_form(), "LM1024", id="J-2"),
        *(J(token(**{name: [""]}), "LM1026", id=f"J-3-{name}") for name in ("jku", "jwk", "x5u", "x5c", "crit", "b64")),
        *(J(token(alg=alg), "LM1025", id=f"J-5-{alg}") for alg in ("none", "HS256", "EdDSA", "ML-DSA-65", "es256")),
        # before processing: what follows is not even looked at
        J(f"{b64({'alg': 'none', 'jku': 'x'})}.AA.AA", "LM1025", id="J-5-before-processing"),
        J(token(typ="at+jwt"), "LM1026", id="J-8"),
        J(token(typ="jwt"), "LM1026", id="J-8-case"),
        J(token(without("sub")), "LM1027", id="J-9"),
        J(token({**CLAIMS, "sub": "https://corp.test/a"}), "LM1027", id="J-9-no-spiffe-id"),
        J(token(without("aud")), "LM1027", id="J-11"),
        J(token({**CLAIMS, "aud": []}), "LM1027", id="J-11-empty"),
        J(token({**CLAIMS, "aud": ["you", "ME"]}), "LM1028", id="J-12"),
        J(token(without("exp")), "LM1027", id="J-14"),
        J(expired(), "LM1029", id="J-15"),
        J(token({**CLAIMS, "nbf": int(NOW.timestamp()) + 60}), "LM1029", id="J-15-nbf"),
        J(token({**CLAIMS, "sub": "spiffe://other.test/a"}), "LM1030", id="J-20"),
    ],
)
def test_refuses(found: str, code: str) -> None:
    assert verdict(found) == code


@pytest.mark.parametrize("alg", [J(alg, id=f"J-4-{alg}") for alg in ALGORITHMS])
def test_accepts_the_nine_algorithms(alg: str) -> None:
    assert verdict(token(alg=alg), bundle(("k", private(alg)))) == ME


@pytest.mark.parametrize(
    ("alg", "key"),
    [J(alg, key, id=f"J-6-{alg}-{key}") for alg in KEYS for key in KEYS if alg not in {"RS", key}],
)
def test_the_curve_is_the_algorithms(alg: str, key: str) -> None:
    assert verdict(token(alg=alg), bundle(("k", KEYS[key]))) == "LM1031"


@pytest.mark.parametrize("kid", [J(None, id="J-7")])
def test_a_token_without_kid_verifies_with_a_key_that_fits(kid: None) -> None:
    keys = bundle(("a", ec.generate_private_key(ec.SECP256R1())), ("b", KEYS["ES256"]))
    assert verdict(token(kid=kid), keys) == ME
    assert verdict(token(kid="a"), keys) == "LM1031"


@pytest.mark.parametrize("typ", [J("JWT", id="J-8-JWT"), J("JOSE", id="J-8-JOSE"), J(None, id="J-8-none")])
def test_accepts_each_type(typ: str | None) -> None:
    assert verdict(token(typ=typ)) == ME


def minted(*audiences: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    import base64

    found, _ = mint_jwt_svid(
        SpiffeId.parse(ME), audiences, jwt_signer("k", KEYS["ES256"]), now=NOW, life=dt.timedelta(minutes=5), jti="1"
    )
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in found.split(".")[:2])
    return header, claims, found


@pytest.mark.parametrize("statement", ["J-1", "J-3", "J-9", "J-10", "J-13"])
def test_issues(statement: str) -> None:
    header, claims, found = minted("me")
    assert {
        "J-1": found.count(".") == 2 and verdict(found) == ME,
        "J-3": set(header) <= {"alg", "kid", "typ"},
        "J-9": claims["sub"] == ME,
        "J-10": claims["aud"] == ["me"],
        "J-13": claims["exp"] == NOW.timestamp() + 300,
    }[statement]


@pytest.mark.parametrize("audiences", [J((), id="J-10-none"), J(("",), id="J-10-empty")])
def test_issues_nothing_without_an_audience(audiences: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="LM1270"):
        minted(*audiences)


def document(**change: Any) -> bytes:
    jwk = {**json.loads(bundle()[TD].jwt_authorities[0]), "use": "jwt-svid", **change}
    return json.dumps({"keys": [{name: value for name, value in jwk.items() if value is not None}]}).encode()


@pytest.mark.parametrize("statement", ["J-17", "J-18"])
def test_bundle_elements(statement: str) -> None:
    (element,) = json.loads(bundle()[TD].to_json())["keys"]
    assert {"J-17": element["use"] == "jwt-svid", "J-18": element["kid"] == "k"}[statement]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        J({}, ME, id="J-19-accepts"),
        J({"use": "x509-svid"}, "LM1030", id="J-19"),
        J({"use": None}, "LM1030", id="J-19-no-use"),
        J({"kid": None}, "LM1030", id="J-18-without"),
    ],
)
def test_only_jwt_keys_count(change: dict[str, Any], expected: str) -> None:
    assert verdict(GOOD, {TD: parse_bundle(TD, document(**change))}) == expected


@pytest.mark.parametrize("domain", [J("other.test", id="J-20-own-bundle-only")])
def test_another_domains_keys_do_not_vouch(domain: str) -> None:
    other = TrustDomain.parse(domain)
    keys = bundle()[TD].jwt_authorities
    assert verdict(GOOD, {other: TrustBundle(trust_domain=other, jwt_authorities=keys)}) == "LM1030"
    assert verdict(GOOD, {TD: Pki().bundle()}) == "LM1030"


@pytest.mark.parametrize("found", [J(GOOD, id="J-16")])
def test_a_token_that_is_sent_over_http_is_a_bearer_token(found: str, url: str, tmp_path: pathlib.Path) -> None:
    """The one place where a token of a workload leaves us over HTTP: a key set that asks who fetches it."""
    (tmp_path / "token").write_text(f"{found}\n")
    said = read_source(Source(place=f"{url}/authorized", token_path=str(tmp_path / "token")))
    assert said == f"Bearer {found}".encode()
