import base64
import json
import pathlib
from collections.abc import Callable, Iterator

import pytest

from enforcer import nodestate
from enforcer.agentmetrics import REFUSED
from enforcer.nodestate import NodeState
from enforcer.release import Releases
from mesh.problems import Invalid
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


def told() -> float:
    """What Prometheus hears of refused releases."""
    return next(iter(next(iter(REFUSED.collect())).samples)).value


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


def changed(activation: bytes, **fields: object) -> bytes:
    """An activation with other fields, as a server that was taken over could write it."""
    row = json.loads(activation)
    assert set(fields) <= set(row)
    return json.dumps({**row, **fields}).encode()


def forged(activation: bytes) -> bytes:
    """An activation whose first approval has one byte of its signature changed."""
    row = json.loads(activation)
    signature = row["approvals"][0]["signatures"][0]
    data = bytearray(base64.b64decode(signature["sig"]))
    data[7] ^= 1
    signature["sig"] = base64.b64encode(data).decode()
    return json.dumps(row).encode()


def without_one(activation: bytes) -> bytes:
    return changed(activation, approvals=json.loads(activation)["approvals"][:1])


def twice_the_same(activation: bytes) -> bytes:
    return changed(activation, approvals=json.loads(activation)["approvals"][:1] * 2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(forged, "LM2415", id="wrong-signature"),
        pytest.param(without_one, "LM2416", id="too-few"),
        pytest.param(twice_the_same, "LM2416", id="one-reviewer-twice"),
        pytest.param(lambda data: changed(data, approvals=[]), "LM2416", id="none"),
        pytest.param(lambda data: changed(data, predecessor="sha256:" + "0" * 64), "LM2421", id="other-predecessor"),
        pytest.param(lambda data: changed(data, predecessor=None), "LM2421", id="no-predecessor"),
        pytest.param(lambda data: changed(data, snapshot="sha256:" + "0" * 64), "LM2402", id="other-content"),
        pytest.param(lambda data: changed(data, activated="2027-01-01T00:00:00Z"), "LM2422", id="in-the-future"),
        pytest.param(lambda data: changed(data, epoch=0), "LM2420", id="epoch-0"),
    ],
)
def test_a_changed_release_is_refused_and_the_last_good_one_stays(
    change: Callable[[bytes], bytes], code: str, world: World, folder: pathlib.Path
) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    good = world.publish()
    assert take(releases, world, 0) == [True]
    world.publish(TREE.replace("GET", "POST"))
    state = world.app.state(1)
    activation, content = state.releases[0]
    assert told() == 0
    assert not releases.take(change(activation), content, state.reviewers, world.clock.now())
    assert releases.refusals[0][0] == code
    assert told() == 1
    assert releases.active is not None
    assert (releases.epoch, releases.active.hash) == (1, good)
    # refused for what was changed alone: as it was signed it is taken
    assert releases.take(activation, content, state.reviewers, world.clock.now())
    assert told() == 0


def test_an_old_release_under_a_new_number_is_refused(world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    world.publish()
    activation, content = world.app.state(0).releases[0]
    assert take(releases, world, 0) == [True]
    second = world.publish(TREE.replace("GET", "POST"))
    assert take(releases, world, 1) == [True]
    for predecessor in (None, second):
        replayed = changed(activation, epoch=9, predecessor=predecessor)
        assert not releases.take(replayed, content, world.app.state(0).reviewers, world.clock.now())
        assert releases.epoch == 2


def test_a_lower_epoch_is_nothing_new_even_when_its_content_is_lost(world: World, folder: pathlib.Path) -> None:
    releases = Releases(folder, node_state(world), WRAPPING)
    world.publish()
    assert take(releases, world, 0) == [True]
    world.publish(TREE.replace("GET", "POST"))
    assert take(releases, world, 1) == [True]
    for path in folder.glob("sha256-*.json"):
        path.unlink()
    saved = nodestate.load(folder, WRAPPING)
    assert saved is not None
    again = Releases(folder, saved, WRAPPING)
    assert (again.active, again.epoch) == (None, 2)
    assert not any([*take(again, world, 0), *take(again, world, 1)])
    assert again.active is None


def test_kept_content_that_was_changed_on_the_disk_is_not_applied(world: World, folder: pathlib.Path) -> None:
    state = node_state(world)
    releases = Releases(folder, state, WRAPPING)
    world.publish()
    assert take(releases, world, 0) == [True]
    kept = next(folder.glob("sha256-*.json"))
    kept.write_bytes(kept.read_bytes().replace(b'"GET"', b'"PUT"'))
    with pytest.raises(Invalid, match="LM2402"):
        Releases(folder, state, WRAPPING)
