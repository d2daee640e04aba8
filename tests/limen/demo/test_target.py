import pathlib
from typing import Any, cast

from limen import attacks
from limen.client import Client
from limen.demo.place import prepare
from limen.demo.target import Shop
from mesh.clock import ManualClock
from tests.world import START


def test_a_shop_is_a_target(tmp_path: pathlib.Path) -> None:
    place = prepare(tmp_path, START)
    shop: attacks.Target = Shop(place, {}, cast("Any", Client(tmp_path / "none")), ManualClock(START))
    assert shop.now == START
    assert shop.inbound("cart")[1] == place.inbound["cart"]
    assert shop.application("cart")[1] == place.application["cart"]
    assert shop.outbound("cart", "orders") == place.outbound["cart", "orders"]
    assert shop.script("cart").is_file()
    assert shop.environment("cart")["PORT"] == str(place.application["cart"])
