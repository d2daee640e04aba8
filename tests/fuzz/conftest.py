"""A world behind real doors."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.doors import at_present
from tests.world import World, make_world


@pytest.fixture
def world_now(tmp_path: pathlib.Path) -> Iterator[World]:
    found = at_present(make_world(tmp_path / "state"))
    yield found
    found.app.close()
