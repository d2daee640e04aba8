from tests.acmeclient import Client
from tests.world import World


def test_operators_see_what_there_is(world: World, open_client: Client) -> None:
    open_client.register(contact=["mailto:a@b.test"])
    open_client.obtain("a.test")
    found = world.app.acme_operators
    assert found.status()["accounts"] == 1
    assert found.list_accounts()[0]["contact"] == ["mailto:a@b.test"]
    assert [row["status"] for row in found.list_orders()] == ["valid"]
    assert "BEGIN CERTIFICATE" in found.root()["pem"]


def test_a_bindings_key_is_not_in_the_log(world: World) -> None:
    made = world.app.acme_operators.create_binding("team", actor="ada")
    shown = str(list(world.app.records(after=0, kind="ca", limit=99)))
    assert made["kid"] in shown
    assert made["hmac_key"] not in shown
