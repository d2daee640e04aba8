import json
import pathlib
from typing import Any

import pytest

from learner.history import History
from learner.propose import propose_from
from learner.risk import Watch
from limen import client, store
from limen.__main__ import run
from limen.cli.learnserver import flows_of_server, known_to_server
from limen.learned import Learned
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, transaction
from mesh.problems import Invalid, NotFound
from tests.learner import worlds


class Served:
    """A server's answers, from a real database with a real learner, without its socket."""

    def __init__(self) -> None:
        self.engine = open_database("sqlite://")
        migrate(self.engine, "limen")
        migrate(self.engine, "learner")
        self.learned = Learned(self.engine)
        self.identities = [{"spiffe_id": f"{worlds.NS}idle"}]

    def learn(self, flows: list[Any]) -> None:
        with transaction(self.engine) as connection:
            store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])
        learning = Learning(self.engine, ManualClock(worlds.START))
        while learning.step():
            pass

    def call(self, method: str, path: str, body: object | None = None) -> Any:
        assert (method, body) == ("GET", None)
        name, _, query = path.partition("?")
        given = dict(pair.split("=") for pair in query.split("&") if pair)
        if name == "/v1/learn":
            found: Any = self.learned.standing()
        elif name == "/v1/learn/kinds":
            found = self.learned.kinds(after=given["after"], limit=2)
        elif name == "/v1/identities":
            found = self.identities
        elif name == "/v1/flows":
            with transaction(self.engine) as connection:
                found = store.flows(connection, int(given["limit"]))
        else:
            raise NotFound("LM5204")
        return json.loads(json.dumps(found))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    found = Served()
    monkeypatch.setattr(client, "call", found.call)
    return found


def test_what_a_server_knows_is_what_the_files_would_have_said(served: Served) -> None:
    flows = [*worlds.shop(days=3), *worlds.prober()]
    served.learn(flows)
    known = known_to_server()
    history = History()
    history.add(flows)
    watch = Watch(looks=2, identities=known.identities)
    assert propose_from(known.memory.history, watch).to_json() == propose_from(history, watch).to_json()
    assert known.identities == {f"{worlds.NS}idle"}
    assert known.losses == ()


def test_before_the_first_flow_there_is_nothing_to_propose(served: Served) -> None:
    for ask in (known_to_server, flows_of_server):
        with pytest.raises(Invalid, match="LM4035"):
            ask()
    assert served.learned.standing()["history"] is None


def test_what_was_lost_or_waits_is_said(served: Served) -> None:
    served.learn(worlds.shop(days=1))
    with transaction(served.engine) as connection:
        store.put_flows(connection, "n", [json.dumps(worlds.shop(days=2)[-1].to_json()).encode()])
    assert known_to_server().losses == ("1 flows wait to be learned",)


def test_without_files_the_commands_take_what_the_server_learned(
    served: Served, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows = worlds.shop(days=3)
    served.learn(flows)
    assert run(["learn", "propose", "--out", str(tmp_path / "tree"), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sources"][0]["file"] == "server"
    assert any("idle" in text for text in found["open"])
    assert run(["learn", "drift", "--policies", str(tmp_path / "tree"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["drift"] is False
    day = str(flows[-1].start.date())
    assert run(["learn", "propose", "--held-out", day, "--out", str(tmp_path / "held"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"]["connections"] > 0


def test_a_changed_tree_needs_a_tree(
    served: Served, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.learn(worlds.shop(days=1))
    assert run(["learn", "drift", "--out", str(tmp_path / "x")]) == 2
    assert "LM4036" in capsys.readouterr().err
