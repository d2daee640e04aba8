"""A world for the tests of `limen`."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.doors import at_present
from tests.world import World, make_world


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


@pytest.fixture
def world_now(world: World) -> World:
    return at_present(world)
