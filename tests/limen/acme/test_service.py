import datetime as dt

import pytest
from cryptography import x509

from ca.acme import store
from ca.acme.jws import encode
from mesh.database import transaction
from mesh.problems import Forbidden, Problem
from tests.acmeclient import BASE, Client, csr
from tests.world import World


def rows(world: World) -> list[int]:
    with transaction(world.app._engine) as connection:
        return [store.count(connection, table) for table in (store.ACCOUNTS, store.ORDERS, store.AUTHORIZATIONS)]


def test_an_order_becomes_a_recorded_certificate(world: World, open_client: Client) -> None:
    open_client.register()
    leaf, issuing = x509.load_pem_x509_certificates(open_client.obtain("a.test", "b.test"))
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(world.app.acme.authority.root)
    found = list(world.app.records(after=0, kind="issuance", limit=99))
    assert any(f"{leaf.serial_number:x}" in str(item) for item in found)


def test_a_certificate_is_not_given_out_before_it_is_recorded(
    world: World, open_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_client.register()
    path, order = open_client.order("a.test")
    open_client.prove(order)
    acme = world.app.acme
    with monkeypatch.context() as patch:
        patch.setattr(acme, "_finish", lambda row: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_client.post(order["finalize"].removeprefix(BASE), {"csr": encode(csr("a.test"))})
    found = open_client.post(path)[2]
    assert found["status"] == "processing"
    assert "certificate" not in found
    acme.resume()
    assert open_client.post(path)[2]["status"] == "valid"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"nonce": "AAAA"}, "LM1401"),
        ({"nonce": None}, "LM1401"),
        ({"url": "https://evil.test/acme/new-order"}, "LM1403"),
        ({"alg": "none"}, "LM1402"),
        ({"kid": "https://limen.test/acme/account/none"}, "LM1404"),
    ],
    ids=str,
)
def test_a_message_that_is_refused_leaves_no_row(
    world: World, open_client: Client, change: dict[str, object], code: str
) -> None:
    open_client.register()
    before = rows(world)
    body = {"identifiers": [{"type": "dns", "value": "a.test"}]}
    assert open_client.code("/acme/new-order", body, **change) == code
    assert rows(world) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "LM1400"),
        ({"identifiers": [{"type": "dns", "value": "a.example"}]}, "LM1406"),
        ({"identifiers": [{"type": "uri", "value": "a"}]}, "LM1420"),
        ({"identifiers": [{"type": "dns", "value": "a.test"}], "notAfter": "2030"}, "LM1400"),
    ],
    ids=str,
)
def test_an_order_that_is_refused_leaves_no_row(world: World, open_client: Client, body: object, code: str) -> None:
    open_client.register()
    before = rows(world)
    assert open_client.code("/acme/new-order", body) == code
    assert rows(world) == before


def test_a_nonce_serves_once(open_client: Client) -> None:
    body = open_client.body("/acme/new-account", {})
    open_client.acme.call(body, BASE, "/acme/new-account")
    with pytest.raises(Problem, match="LM1401"):
        open_client.acme.call(body, BASE, "/acme/new-account")


def test_a_proof_that_fails_ends_the_order(open_client: Client) -> None:
    open_client.register()
    path, order = open_client.order("a.test")
    url = open_client.post(order["authorizations"][0].removeprefix(BASE))[2]["challenges"][0]["url"]
    assert open_client.post(url.removeprefix(BASE), {})[2]["status"] == "processing"
    for task in open_client.acme.due():
        open_client.acme.judge(task.id, Forbidden("LM1416", name="a.test", reason="no"))
    found = open_client.post(path)[2]
    assert found["status"] == "invalid"
    assert found["error"]["type"].endswith("incorrectResponse")
    assert open_client.code(order["finalize"].removeprefix(BASE), {"csr": encode(csr("a.test"))}) == "LM1408"


def test_finalize_asks_for_exactly_the_order(open_client: Client) -> None:
    open_client.register()
    _, order = open_client.order("a.test")
    path = order["finalize"].removeprefix(BASE)
    assert open_client.code(path, {"csr": encode(csr("a.test"))}) == "LM1408"
    open_client.prove(order)
    assert open_client.code(path, {"csr": encode(csr("b.test"))}) == "LM1407"
    assert open_client.code(path, {"csr": encode(csr("a.test", key=open_client.key))}) == "LM1407"


def test_wildcards_are_proven_by_dns_alone(open_client: Client) -> None:
    open_client.register()
    _, order = open_client.order("*.a.test")
    found = open_client.post(order["authorizations"][0].removeprefix(BASE))[2]
    assert found["wildcard"] is True
    assert [item["type"] for item in found["challenges"]] == ["dns-01"]


def test_anothers_objects_are_unknown(world: World, open_client: Client) -> None:
    open_client.register()
    path, _ = open_client.order("a.test")
    other = Client(world.app.acme)
    other.register()
    assert other.code(path) == "LM1419"


def test_a_certificate_is_revoked_by_its_account_or_its_key_and_by_nobody_else(
    world: World, open_client: Client
) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    open_client.register()
    leaf = x509.load_pem_x509_certificates(open_client.obtain("a.test"))[0]
    asked = {"certificate": encode(leaf.public_bytes(Encoding.DER))}
    other = Client(world.app.acme)
    assert other.code("/acme/revoke-cert", asked) == "LM1403"
    assert open_client.code("/acme/revoke-cert", {**asked, "reason": 6}) == "LM1411"
    assert open_client.code("/acme/revoke-cert", asked) == ""
    assert open_client.code("/acme/revoke-cert", asked) == "LM1410"
    found = x509.load_der_x509_crl(world.app.acme.crl())
    assert [item.serial_number for item in found] == [leaf.serial_number]


def test_orders_are_limited_and_what_is_pending_goes(world: World, open_client: Client) -> None:
    (world.state / "acme.yaml").write_text("binding: optional\nnames: [test]\norders_per_hour: 2\n")
    world.app.acme.tick()
    open_client.register()
    open_client.order("a.test")
    open_client.order("b.test")
    body = {"identifiers": [{"type": "dns", "value": "c.test"}]}
    assert open_client.code("/acme/new-order", body) == "LM1409"
    world.clock.advance(dt.timedelta(hours=2))
    world.app.acme.tick()
    assert rows(world)[1:] == [0, 0]
