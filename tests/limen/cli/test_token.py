from typing import Any

import pytest

from mesh.jointoken import read_pins

pytestmark = pytest.mark.system


def test_a_token_carries_the_pins_and_an_end(installation: Any) -> None:
    found = installation.json("token", "create")
    assert set(found) == {"token", "expires"}
    assert read_pins(found["token"]).trust_domain == "test.limen"
    done = installation.limen("token", "create", "--ttl", "5")
    assert read_pins(done.stdout.strip()).server.startswith("sha256:")
    assert installation.limen("token", "create", "--ttl", "0").returncode == 2
