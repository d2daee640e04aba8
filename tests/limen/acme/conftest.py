import pytest

from tests.acmeclient import Client
from tests.world import World


@pytest.fixture
def open_client(world: World) -> Client:
    """A client of a server that takes whoever asks, for names below test."""
    (world.state / "acme.yaml").write_text("binding: optional\nnames: [test]\naddresses: [127.0.0.0/8]\n")
    world.app.acme.tick()
    return Client(world.app.acme)
