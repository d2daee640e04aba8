import http.server
import io
import json
import os
import pathlib
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from limen.__main__ import run
from mesh.clock import SystemClock
from mesh.database import migrate, open_database, transaction
from mesh.problems import Forbidden, Problem
from mesh.spiffe import TrustDomain
from policyengine import dsse, reviewing, store
from policyengine.model import policy_set_from_json
from policyengine.reviewers import reviewer_set_from_json
from policyengine.snapshot import Snapshot

TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: team-data}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/db"]
  ports: [{port: 8080, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: shop-db, owner: team-data}
spec:
  service: db
  tier: app
  rules:
  - id: orders
    effect: allow
    from: ["spiffe://corp.test/ns/shop/sa/cart"CALLERS]
    to:
    - {methods: [GET], paths: ["/orders"]}
"""


class Service:
    """The review service behind a Unix socket: the real one, with a rim of thirty lines."""

    def __init__(self, state: pathlib.Path) -> None:
        self.state = state
        self.engine = open_database("sqlite://")
        self.lie: Snapshot | None = None
        migrate(self.engine, store.ROOM)
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.answer(self, None)

            def do_POST(self) -> None:
                service.answer(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None:
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self.server = Server(str(state / "server.sock"), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.engine.dispose()

    def answer(self, handler: Any, body: Any) -> None:
        try:
            with transaction(self.engine) as connection:
                status, found = 200, self.route(connection, handler.path.split("/")[2:], body)
        except Problem as problem:
            kind = type(problem).__name__
            status = 403
            found = {"problem": {"class": kind, "code": problem.code, "facts": problem.facts}}
        text = json.dumps(found).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def route(self, connection: Any, path: list[str], body: Any) -> Any:
        now = SystemClock().now()
        match path, body:
            case ["snapshots", "active"], None:
                found = reviewing.active(connection)
                return None if found is None else {"hash": found[1].hash, "snapshot": found[1].to_json()}
            case ["snapshots", name], None:
                snapshot = self.lie or store.get_snapshot(connection, name)
                return {"hash": name, "snapshot": snapshot.to_json()}
            case ["reviews"], None:
                return [reviewing.describe(connection, found) for found in store.list_reviews(connection)]
            case ["reviews", name], None:
                return reviewing.describe(connection, store.get_review(connection, name))
            case ["reviews"], _:
                made = reviewing.propose(
                    connection,
                    policies=policy_set_from_json(body["policies"]),
                    trust_domain=TrustDomain("corp.test"),
                    predecessor=body["predecessor"],
                    proposer=body["proposer"],
                    note=body["note"],
                    now=now,
                    random=os.urandom(10),
                )
                return reviewing.describe(connection, made)
            case ["reviews", name, "approvals"], _:
                envelope = dsse.envelope_from_json(body["envelope"])
                return reviewing.describe(connection, reviewing.approve(connection, name, envelope, now=now))
            case ["reviews", name, event], _:
                getattr(reviewing, event)(connection, name, now=now)
                return {}
        raise AssertionError(path)


@pytest.fixture
def place(monkeypatch: Any) -> Iterator[pathlib.Path]:
    """A short path: a Unix socket's has at most 107 bytes."""
    found = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("LIMEN_STATE", str(found))
    monkeypatch.delenv("LIMEN_REVIEWER_PASSPHRASE", raising=False)
    yield found
    shutil.rmtree(found)


@pytest.fixture
def service(place: pathlib.Path, capsys: Any) -> Iterator[Service]:
    """A service with the reviewers ada (every owner) and grace (none); both are needed."""
    for name, teams in (("ada", ["--team", "*"]), ("grace", [])):
        assert run(["reviewer", "init", "--name", name, *teams, "--out", str(place / f"{name}.key")]) == 0
    found = Service(place)
    members = [word for name in ("ada", "grace") for word in ("--member", str(place / f"{name}.key.pub.json"))]
    where = ["--trust-domain", "corp.test", "--out", str(place / "set.json")]
    assert run(["reviewer", "set", *members, "--threshold", "2", *where]) == 0
    judges = reviewer_set_from_json(json.loads((place / "set.json").read_text()))
    with transaction(found.engine) as connection:
        reviewing.begin(connection, judges)
    capsys.readouterr()
    yield found
    found.close()


def tree(place: pathlib.Path, *callers: str) -> str:
    folder = place / "tree"
    folder.mkdir(exist_ok=True)
    more = "".join(f', "spiffe://corp.test/ns/shop/sa/{name}"' for name in callers)
    (folder / "db.yaml").write_text(TREE.replace("CALLERS", more))
    return str(folder)


def ask(capsys: Any, *words: str, status: int = 0) -> Any:
    assert run([*words, "-o", "json"]) == status
    return json.loads(capsys.readouterr().out)


def release(capsys: Any, place: pathlib.Path, *callers: str) -> str:
    made = ask(capsys, "review", "propose", "--policies", tree(place, *callers), "--note", "more callers")
    for name in ("ada", "grace"):
        ask(capsys, "review", "approve", made["id"], "--key", str(place / f"{name}.key"), "--yes")
    return str(made["id"])


def test_a_change_goes_from_proposal_to_active_and_back(service: Any, place: pathlib.Path, capsys: Any) -> None:
    first = release(capsys, place)
    assert ask(capsys, "review", "activate", first)["state"] == "active"
    second = release(capsys, place, "batch")
    assert ask(capsys, "review", "shadow", second)["state"] == "shadowed"
    assert ask(capsys, "review", "activate", second)["state"] == "active"
    listed = ask(capsys, "review", "list")
    assert [(row["id"], row["state"]) for row in listed] == [(second, "active"), (first, "superseded")]
    assert ask(capsys, "review", "rollback", second)["state"] == "rolled-back"


def test_activation_below_the_threshold_is_not_allowed(service: Any, place: pathlib.Path, capsys: Any) -> None:
    made = ask(capsys, "review", "propose", "--policies", tree(place))
    ask(capsys, "review", "approve", made["id"], "--key", str(place / "ada.key"), "--yes")
    assert run(["review", "activate", made["id"]]) == Forbidden.exit_status == 4
    assert "LM2416" in capsys.readouterr().err


def test_publish_says_what_is_missing_and_exits_4(service: Any, place: pathlib.Path, capsys: Any) -> None:
    assert run(["policy", "publish", "--policies", tree(place), "--key", str(place / "ada.key")]) == 4
    assert "LM2416" in capsys.readouterr().err


def test_publish_without_a_key_on_this_host_is_not_allowed_and_stays_proposed(
    service: Any, place: pathlib.Path, capsys: Any
) -> None:
    assert run(["policy", "publish", "--policies", tree(place)]) == 4
    assert "LM2416" in capsys.readouterr().err
    (review,) = ask(capsys, "review", "list")
    assert (review["state"], review["approvals"]) == ("proposed", [])
    # a key that was named and is not there is input that cannot be read
    assert run(["policy", "publish", "--policies", tree(place), "--key", str(place / "gone.key")]) == 2
    assert "LM2407" in capsys.readouterr().err
    assert len(ask(capsys, "review", "list")) == 1


def test_publish_without_a_key_and_without_a_server_says_that_there_is_no_server(
    place: pathlib.Path, capsys: Any
) -> None:
    assert run(["policy", "publish", "--policies", tree(place)]) == 3
    assert "LM2407" not in capsys.readouterr().err


def test_publish_is_one_command_where_one_key_suffices(place: pathlib.Path, capsys: Any) -> None:
    assert run(["reviewer", "init", "--name", "local"]) == 0
    found = Service(place)
    try:
        from policyengine.keyfile import LOCAL_KEY, read_key

        with transaction(found.engine) as connection:
            local = reviewing.local_set(TrustDomain("corp.test"), read_key(place / LOCAL_KEY, None))
            reviewing.begin(connection, local)
        capsys.readouterr()
        assert ask(capsys, "policy", "publish", "--policies", tree(place))["state"] == "active"
        assert ask(capsys, "policy", "publish", "--policies", tree(place, "batch"))["state"] == "active"
        assert ask(capsys, "policy", "publish", "--policies", tree(place, "batch"))["review"] is None
        assert run(["policy", "plan", "--policies", tree(place, "batch")]) == 0
        capsys.readouterr()
        changed = ask(capsys, "policy", "plan", "--policies", tree(place), status=1)
        assert [row["source"] for row in changed["newly_denied"]] == ["spiffe://corp.test/ns/shop/sa/batch"]
    finally:
        found.close()


def test_show_plans_on_this_machine(service: Any, place: pathlib.Path, capsys: Any) -> None:
    made = ask(capsys, "review", "propose", "--policies", tree(place))
    shown = ask(capsys, "review", "show", made["id"])
    assert [row["source"] for row in shown["plan"]["newly_allowed"]] == ["spiffe://corp.test/ns/shop/sa/cart"]
    assert run(["review", "show", made["id"]]) == 0
    out = capsys.readouterr().out
    assert "newly allowed: 1" in out
    assert "nobody (0 of 2)" in out


def test_nothing_is_signed_that_is_not_what_the_review_names(service: Any, place: pathlib.Path, capsys: Any) -> None:
    made = ask(capsys, "review", "propose", "--policies", tree(place))
    with transaction(service.engine) as connection:
        shown = store.get_snapshot(connection, made["snapshot"])
    service.lie = Snapshot(
        trust_domain=shown.trust_domain, policies=shown.policies, identity_rules="x", reviewer_set=shown.reviewer_set
    )
    assert run(["review", "approve", made["id"], "--key", str(place / "ada.key"), "--yes"]) == 2
    assert "LM2402" in capsys.readouterr().err
    with transaction(service.engine) as connection:
        assert store.get_review(connection, made["id"]).approvals == ()


def test_the_proposer_is_not_an_approver(service: Any, place: pathlib.Path, capsys: Any) -> None:
    key = str(place / "ada.key")
    made = ask(capsys, "review", "propose", "--policies", tree(place), "--key", key)
    assert run(["review", "approve", made["id"], "--key", key, "--yes"]) == 4
    assert "LM2418" in capsys.readouterr().err


def test_a_rejected_review_stays_rejected(service: Any, place: pathlib.Path, capsys: Any) -> None:
    made = release(capsys, place)
    assert ask(capsys, "review", "reject", made)["state"] == "rejected"
    assert run(["review", "activate", made]) == 2
    assert "LM2423" in capsys.readouterr().err


def test_says_no_when_not_confirmed(service: Any, place: pathlib.Path, capsys: Any, monkeypatch: Any) -> None:
    made = ask(capsys, "review", "propose", "--policies", tree(place))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["review", "approve", made["id"], "--key", str(place / "ada.key")]) == 130
    assert "newly allowed" in capsys.readouterr().out


def test_says_when_no_server_answers(place: pathlib.Path, capsys: Any) -> None:
    assert run(["review", "list"]) == 3
    assert "LM5201" in capsys.readouterr().err
