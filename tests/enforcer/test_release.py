import pathlib
from collections.abc import Iterator

import pytest

from enforcer import nodestate
from enforcer.nodestate import NodeState
from enforcer.release import Releases
from mesh.wrapping import WrappingKey
from tests.world import TREE, World, make_world

WRAPPING = WrappingKey(bytes(32), beside_state=False)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    found = make_world(tmp_path / "state")
    yield found
    found.app.close()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "agent"
    path.mkdir()
    return path


def node_state(world: World) -> NodeState:
    return NodeState(
        trust_domain="world.test", url="", node_api="", server_pin="", server_certificate=b"",
        reviewers_pin=world.app.reviewers()["first"], spiffe_id="spiffe://world.test/limen/agent/n", chain=(),
        bundle=b"", key=b"k", record_key=b"r",
    )  # fmt: skip


def take(releases: Releases, world: World, since: int) -> list[bool]:
    state = world.app.state(since)
    now = world.clock.now()
    return [releases.take(activation, content, state.reviewers, now) for activation, content in state.releases]


def test_signed_releases_are_applied_in_order_and_survive_a_restart(world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    assert releases.message()["active"] is None
    first = world.publish()
    assert take(releases, world, 0) == [True]
    world.publish(TREE.replace("GET", "POST"))
    third = world.publish(TREE.replace("GET", "PUT"))
    assert take(releases, world, 1) == [True, True]
    assert releases.active is not None
    assert (releases.epoch, releases.active.hash) == (3, third)
    assert first != third
    saved = nodestate.load(folder, WRAPPING)
    assert saved is not None
    again = Releases(folder, saved, WRAPPING)
    assert again.active is not None
    assert (again.epoch, again.active.hash) == (3, third)
    # an old release that is replayed changes nothing
    assert take(again, world, 0) == [False]
    assert again.refusals == []


def test_other_content_under_an_approved_name_is_refused(world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    world.publish()
    state = world.app.state(0)
    activation, content = state.releases[0]
    swapped = content.replace(b'"GET"', b'"PUT"')
    assert swapped != content
    assert not releases.take(activation, swapped, state.reviewers, world.clock.now())
    assert releases.refusals[0][0] == "LM2402"
    assert releases.active is None


def test_reviewers_of_somebody_else_are_refused(world: World, folder: pathlib.Path) -> None:
    strange = node_state(world)
    strange.reviewers_pin = "sha256:" + "0" * 64
    releases = Releases(folder, strange, WRAPPING)
    world.publish()
    assert take(releases, world, 0) == [False]
    assert releases.refusals[0][0] == "LM2406"


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]"], ids=str)
def test_unreadable_releases_keep_the_last_good_one(data: bytes, world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    world.publish()
    assert take(releases, world, 0) == [True]
    active = releases.active
    assert not releases.take(data, data, (), world.clock.now())
    assert releases.active is active


def test_a_candidate_needs_no_signature_and_decides_nothing(world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    world.publish()
    content = world.app.state(0).releases[0][1]
    releases.take_candidate(content)
    message = releases.message()
    assert (message["active"], message["candidate"] is not None) == (None, True)
    releases.take_candidate(b"junk")
    assert releases.candidate is None
    releases.take_candidate(b"")
    assert releases.candidate is None
