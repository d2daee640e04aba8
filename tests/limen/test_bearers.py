"""Who is let in: a JWT-SVID for this audience, and a name on the list."""

import datetime as dt

import pytest

from limen.bearers import Bearers, Codes, Unauthenticated
from mesh.problems import Forbidden, Invalid
from tests.limen.test_opabundles import header
from tests.world import World

CODES = Codes("LM2640", "LM2641", "LM2642")


def door(world: World, *names: str) -> Bearers:
    found = Bearers("door", CODES, world.app.bundle, world.clock)
    found.admit(names)
    return found


def test_a_named_caller_comes_in(world: World) -> None:
    assert (
        door(world, "spiffe://world.test/user/**").authorize(header(world, "door")) == "spiffe://world.test/user/1000"
    )


@pytest.mark.parametrize("names", [(), ("spiffe://world.test/user/1",), ("spiffe://other.test/**",)], ids=str)
def test_nobody_else_does(world: World, names: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden, match="LM2642"):
        door(world, *names).authorize(header(world, "door"))


@pytest.mark.parametrize("given", [None, "", "Bearer", "Basic eDp5", "Bearer x.y.z"], ids=str)
def test_who_proves_nothing_is_asked_for_proof(world: World, given: str | None) -> None:
    with pytest.raises(Unauthenticated, match="LM2641"):
        door(world, "spiffe://world.test/**").authorize(given)


def test_a_token_for_another_door_or_another_day_proves_nothing(world: World) -> None:
    found = door(world, "spiffe://world.test/**")
    with pytest.raises(Unauthenticated, match="LM2641"):
        found.authorize(header(world, "another"))
    token = header(world, "door")
    world.clock.advance(dt.timedelta(hours=2))
    with pytest.raises(Unauthenticated, match="LM2641"):
        found.authorize(token)


def test_a_name_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(Invalid, match="LM2640"):
        door(world, "web")
