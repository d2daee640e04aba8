"""A node's SVID, kept for ever: against a server in memory, with clocks that jump, and kills at every step."""

import asyncio
import datetime as dt
import pathlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from ca.rotation import Kind
from enforcer import join as joining
from enforcer import nodestate
from enforcer.door import Door
from enforcer.membership import DOUBTS, Attest, Membership
from enforcer.nodestate import NodeState
from enforcer.skew import ServerClock
from mesh.clock import ManualClock
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.wrapping import WrappingKey
from tests.world import World, make_world

WRAPPING = WrappingKey(bytes(32), beside_state=False)
HOUR = dt.timedelta(hours=1)


class Killed(BaseException):
    """kill -9: nothing behind it runs."""


class Line:
    """The wire between an agent and a server in memory. `down` cuts it; each answer may be lost to a kill."""

    def __init__(self, world: World, state: NodeState | None = None) -> None:
        self.world, self.state = world, state
        self.refused = self.down = False
        self.calls: list[str] = []

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        from limen.api.nodes import decoded

        app = self.world.app
        self.calls.append(path.rpartition("/")[2])
        if self.down:
            raise Unavailable("LM3443", url="x", reason="down")
        try:
            if path.endswith("nonce"):
                return app.nodes.nonce()  # type: ignore[no-any-return]
            if path.endswith("join"):
                return app.join(str(body["token"]), decoded(str(body["spki"])))  # type: ignore[no-any-return]
            parts = {name: decoded(str(body[name])) for name in ("spki", "key", "signature")}
            return app.nodes.readmit(str(body["node"]), nonce=str(body["nonce"]), **parts)  # type: ignore[no-any-return]
        except Problem as problem:
            raise Forbidden(problem.code, **problem.facts) from problem

    async def renew(self, key: ec.EllipticCurvePrivateKey) -> tuple[tuple[bytes, ...], bytes]:
        self.calls.append("renew")
        assert self.state is not None
        if self.down or self.refused:
            raise Unavailable("LM3444", address="x", reason="down")
        try:
            peer = self.world.app.nodes.authenticate(self.state.chain)
        except Problem as problem:
            self.refused = True
            raise Unavailable("LM3444", address="x", reason=str(problem)) from problem
        return self.world.app.renew_node(peer.node, joining.spki_of(key), peer.spki_sha256), b"{}"

    async def adopt(self) -> None:
        return


@pytest.fixture
def line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    found = Line(make_world(tmp_path / "server"))

    def post(door: Door, path: str, body: dict[str, object]) -> dict[str, object]:
        door.certificate = b"server"
        return found.post(path, body)

    # the network is replaced, and nothing of ours
    monkeypatch.setattr(Door, "post", post)

    async def here(call: Callable[..., object], *arguments: object) -> object:
        return call(*arguments)

    # SQLite in memory and the manual clock belong to one thread
    monkeypatch.setattr(asyncio, "to_thread", here)
    return found


def join(line: Line, folder: pathlib.Path, token: str | None = None) -> NodeState:
    """What `limen agent` does first."""
    found = nodestate.load(folder, WRAPPING)
    if found is None:
        key = nodestate.pending_key(folder, WRAPPING)
        found = joining.join("https://x:1", token or new_token(line), key)
        nodestate.save(folder, found, WRAPPING)
    line.state = found
    return found


def new_token(line: Line) -> str:
    return str(line.world.app.create_token(ttl_s=3600, actor="test")["token"])


def member(
    line: Line,
    folder: pathlib.Path,
    state: NodeState,
    *,
    fast: dt.timedelta = dt.timedelta(),
    attest: Attest | None = None,
) -> tuple[Membership, ManualClock]:
    here = ManualClock(line.world.clock.now() + fast)
    clock = ServerClock(here)
    now = here.now()
    clock.heard(line.world.clock.now(), now, now)
    return Membership(folder, state, WRAPPING, api=line, clock=clock, attest=attest), here


def pass_time(line: Line, here: ManualClock, by: dt.timedelta) -> None:
    line.world.clock.advance(by)
    here.advance(by)
    # the server runs all the time, unless it is gone
    if not line.down:
        line.world.app.tick()


def keep(found: Membership) -> bool:
    return asyncio.run(found.keep())


def test_what_a_tainted_authority_signed_is_renewed_before_its_time(line: Line, tmp_path: pathlib.Path) -> None:
    found, _ = member(line, tmp_path, state := join(line, tmp_path))
    old = line.world.app._authority.active(Kind.ISSUING)
    line.world.app.authorities.rotate(Kind.ISSUING, actor="ada", is_forced=True)
    assert line.world.app.state(0).tainted == ()
    line.world.app.authorities.leave("taint", old.id, actor="ada", reason="", is_forced=False, is_dry=False)
    tainted = frozenset(line.world.app.state(0).tainted)
    assert not keep(found)
    found.leave(frozenset({"0" * 64}))
    assert not keep(found)
    found.leave(tainted)
    assert keep(found)
    # once: what is held now was signed by another one
    found.leave(tainted)
    assert not keep(found)
    assert line.world.app._authority.active(Kind.ISSUING).certificates[0] in state.chain


def test_nothing_is_done_before_half_the_life_and_then_it_is_renewed(line: Line, tmp_path: pathlib.Path) -> None:
    state = join(line, tmp_path)
    found, here = member(line, tmp_path, state)
    assert not keep(found)
    pass_time(line, here, HOUR * 0.44)
    assert not keep(found)
    pass_time(line, here, HOUR * 0.12)
    assert keep(found)
    assert line.calls[-1] == "renew"
    assert found.ends == line.world.clock.now().replace(microsecond=0) + HOUR
    again = nodestate.load(tmp_path, WRAPPING)
    assert again is not None
    assert (again.chain, again.key) == (state.chain, state.key)


@pytest.mark.parametrize("fast", [dt.timedelta(minutes=-5), dt.timedelta(0), dt.timedelta(minutes=29)], ids=str)
def test_a_wrong_clock_renews_at_the_right_time(line: Line, tmp_path: pathlib.Path, fast: dt.timedelta) -> None:
    found, here = member(line, tmp_path, join(line, tmp_path), fast=fast)
    for _ in range(5):
        before = line.world.clock.now()
        while not keep(found):
            pass_time(line, here, dt.timedelta(minutes=1))
        assert dt.timedelta(minutes=26) <= line.world.clock.now() - before <= dt.timedelta(minutes=34)
    assert "readmit" not in line.calls


@pytest.mark.parametrize("away", [2 * HOUR, 24 * HOUR * 300], ids=["suspended", "in-a-drawer"])
def test_after_any_time_off_it_is_back_at_once(line: Line, tmp_path: pathlib.Path, away: dt.timedelta) -> None:
    found, here = member(line, tmp_path, join(line, tmp_path))
    pass_time(line, here, away)
    assert keep(found)
    assert line.calls[-2:] == ["nonce", "readmit"]
    assert found.ends > here.now()
    line.world.app.authenticate_node(line.state.chain)  # type: ignore[union-attr]


def test_a_node_that_the_api_refuses_or_never_answers_uses_the_other_door(line: Line, tmp_path: pathlib.Path) -> None:
    found, _here = member(line, tmp_path, join(line, tmp_path))
    line.refused = True
    assert keep(found)
    assert (line.calls[-1], line.refused) == ("readmit", False)
    for _ in range(DOUBTS):
        found.doubt()
    assert keep(found)
    assert line.calls.count("readmit") == 2
    found.doubt()
    found.trust()
    assert not keep(found)


def test_a_server_that_is_gone_is_asked_less_often_and_found_again(line: Line, tmp_path: pathlib.Path) -> None:
    found, here = member(line, tmp_path, join(line, tmp_path))
    pass_time(line, here, 2 * HOUR)
    line.down = True
    before = len(line.calls)
    for _ in range(600):
        assert not keep(found)
        pass_time(line, here, dt.timedelta(seconds=1))
    assert 15 <= len(line.calls) - before <= 60
    assert found.problem is not None
    assert found.problem.code == "LM3443"
    line.down = False
    for _ in range(60):
        pass_time(line, here, dt.timedelta(seconds=1))
        if keep(found):
            break
    assert found.problem is None


def test_a_ban_is_said_and_ends_by_itself(line: Line, tmp_path: pathlib.Path) -> None:
    state = join(line, tmp_path)
    found, here = member(line, tmp_path, state)
    line.world.app.ban_node(state.name, reason="", actor="test")
    line.refused = True
    assert not keep(found)
    assert found.problem is not None
    assert found.problem.code == "LM1243"
    line.world.app.nodes.allow(state.name, actor="test")
    pass_time(line, here, dt.timedelta(minutes=1))
    assert keep(found)


def test_a_node_whose_keys_are_unknown_attests_itself_again_if_it_can(line: Line, tmp_path: pathlib.Path) -> None:
    state = join(line, tmp_path)
    state.key = joining.key_der(ec.generate_private_key(ec.SECP256R1()))
    asked: list[str] = []

    def attest(known: NodeState, key: ec.EllipticCurvePrivateKey) -> joining.Admission:
        asked.append(known.name)
        answer = line.world.app.nodes.admit(
            known.name, attestor="vm", facts=(("node:x", "1"),), spki=joining.spki_of(key), is_fresh=False
        )
        return joining.read_admission(Door("https://x:1", ""), answer, key)

    found, _ = member(line, tmp_path, state)
    line.refused = True
    assert not keep(found)
    assert found.problem is not None
    assert found.problem.code == "LM1242"
    found, _here = member(line, tmp_path, state, attest=attest)
    assert keep(found)
    assert asked == [state.name]
    assert dict(state.facts)["node:x"] == "1"


def test_a_clock_by_which_the_svid_does_not_hold_is_said_with_both_times(line: Line, tmp_path: pathlib.Path) -> None:
    found, _here = member(line, tmp_path, join(line, tmp_path), fast=dt.timedelta(days=-1))
    line.refused = True
    assert keep(found)
    assert found.problem is not None
    assert found.problem.code == "LM3446"
    text = found.problem.message
    assert "2026-11-23T12:00" in text
    assert "2026-11-24T12:00" in text


@pytest.mark.slow
def test_a_kill_at_any_step_of_joining_renewing_and_coming_back_loses_nothing(
    line: Line, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first, second, third … step, then started again: always the same node, always back."""

    left = [10**9]

    def fuse(name: str, inner: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed(name)
            return inner(*arguments, **named)

        return step

    replace_file = nodestate.replace_file
    monkeypatch.setattr(nodestate, "replace_file", fuse("write", replace_file))

    def half_written(path: pathlib.Path, data: bytes) -> None:
        (path.with_name(f".{path.name}.new")).write_bytes(data[: len(data) // 2])

    def post(door: Door, path: str, body: dict[str, object]) -> dict[str, object]:
        door.certificate = b"server"
        fuse("send", lambda: None)()
        answer = line.post(path, body)
        fuse("answer", lambda: None)()
        return answer

    monkeypatch.setattr(Door, "post", post)
    renew = line.renew

    async def renewing(key: ec.EllipticCurvePrivateKey) -> tuple[tuple[bytes, ...], bytes]:
        fuse("send", lambda: None)()
        answer = await renew(key)
        fuse("answer", lambda: None)()
        return answer

    monkeypatch.setattr(line, "renew", renewing)

    def life(folder: pathlib.Path, token: str) -> None:
        """Join, renew once, stay away, come back."""
        state = join(line, folder, token)
        found, here = member(line, folder, state)
        pass_time(line, here, HOUR * 0.56)
        assert keep(found), found.problem
        pass_time(line, here, HOUR * 50)
        assert keep(found), found.problem

    runs = 0
    while True:
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        token = str(line.world.app.create_token(ttl_s=86400, actor="test")["token"])
        left[0] = runs
        try:
            life(folder, token)
        except Killed:
            half_written(folder / "node.json", b'{"version": 1, "trust_domain": "x"}')
            left[0] = 10**9
            state = join(line, folder, token)
            found, here = member(line, folder, state)
            line.refused = False
            pass_time(line, here, HOUR * 3)
            assert keep(found), (runs, found.problem)
            assert line.world.app.authenticate_node(state.chain) == state.name
            key = load_der_private_key(state.key, password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            runs += 1
            continue
        break
    assert runs >= 12
    assert len(line.world.app.nodes.list()) == runs + 1
