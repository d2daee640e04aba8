import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.acme.jws import decode, encode
from mesh.problems import Problem
from tests.acmeclient import BASE, Client, jwk_of, sign
from tests.world import World

URL = BASE + "/acme/new-account"


def binding(found: dict[str, str], client: Client, **change: str) -> dict[str, str]:
    protected = encode(json.dumps({"alg": "HS256", "kid": found["kid"], "url": URL, **change}).encode())
    payload = encode(json.dumps(jwk_of(client.key)).encode())
    mac = hmac.digest(decode(found["hmac_key"], "key"), f"{protected}.{payload}".encode(), "sha256")
    return {"protected": protected, "payload": payload, "signature": encode(mac)}


def test_without_a_binding_nobody_is_let_in(world: World) -> None:
    client = Client(world.app.acme)
    assert client.code("/acme/new-account", {}) == "LM1405"
    assert world.app.acme_operators.list_accounts() == []


def test_a_binding_lets_one_account_in(world: World) -> None:
    found = world.app.acme_operators.create_binding("team", actor="ada")
    first, second = Client(world.app.acme), Client(world.app.acme)
    wrong = {**found, "hmac_key": encode(b"x" * 32)}
    assert first.code("/acme/new-account", {"externalAccountBinding": binding(wrong, first)}) == "LM1403"
    assert first.code("/acme/new-account", {"externalAccountBinding": binding(found, second)}) == "LM1400"
    assert first.code("/acme/new-account", {"externalAccountBinding": binding(found, first, url="x")}) == "LM1400"
    assert first.code("/acme/new-account", {"externalAccountBinding": binding(found, first, alg="none")}) == "LM1402"
    assert first.register(externalAccountBinding=binding(found, first))[0] == 201
    assert second.code("/acme/new-account", {"externalAccountBinding": binding(found, second)}) == "LM1403"


def test_the_same_key_is_the_same_account(open_client: Client) -> None:
    kid = open_client.register()[1]["Location"]
    open_client.kid = ""
    assert open_client.register(onlyReturnExisting=True)[1]["Location"] == kid


def test_an_unknown_key_is_not_registered_by_asking(world: World, open_client: Client) -> None:
    assert open_client.code("/acme/new-account", {"onlyReturnExisting": True}) == "LM1404"
    assert world.app.acme_operators.list_accounts() == []


@pytest.mark.parametrize(
    "contact", [["tel:1"], ["mailto:a@b,c@d"], "mailto:a@b", ["mailto:a@b.test"] * 11, [1]], ids=str
)
def test_a_contact_that_is_none_is_refused(open_client: Client, contact: object) -> None:
    assert open_client.code("/acme/new-account", {"contact": contact}) == "LM1413"


def test_a_deactivated_account_does_nothing_more(open_client: Client) -> None:
    open_client.register(contact=["mailto:a@b.test"])
    path = open_client.kid.removeprefix(BASE)
    assert open_client.post(path, {"status": "deactivated"})[2]["status"] == "deactivated"
    assert open_client.code("/acme/new-order", {}) == "LM1403"


def change(client: Client, new: ec.EllipticCurvePrivateKey, **fields: object) -> None:
    url = BASE + "/acme/key-change"
    inner = {"account": client.kid, "oldKey": jwk_of(client.key), **fields}
    signed = sign(new, {"alg": "ES256", "jwk": jwk_of(new), "url": url}, json.dumps(inner).encode())
    client.post("/acme/key-change", json.loads(signed))


def test_an_account_changes_its_key(world: World, open_client: Client) -> None:
    open_client.register()
    new, other = ec.generate_private_key(ec.SECP256R1()), Client(world.app.acme)
    other.register()
    for fields, key in (({"oldKey": jwk_of(new)}, new), ({"account": other.kid}, new), ({}, other.key)):
        with pytest.raises(Problem):
            change(open_client, key, **fields)
    change(open_client, new)
    assert open_client.code("/acme/orders/x") == "LM1400"
    open_client.key = new
    assert open_client.code(open_client.kid.removeprefix(BASE)) == ""
