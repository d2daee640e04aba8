import json
import pathlib

import pytest

from limen.__main__ import run
from policyengine.loader import load_tree
from tests.learner import worlds

DATA = pathlib.Path(__file__).parent.parent.parent / "learner" / "data"


@pytest.fixture
def flows(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in [*worlds.shop(), *worlds.prober()]))
    return path


def test_a_proposal_is_written_and_its_summary_printed(
    flows: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["learn", "propose", "--from", str(flows), "--out", str(out), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"rules", "services", "blind_spots", "quarantined", "unattributed"} <= set(found)
    assert {item["reason"] for item in found["quarantined"]} == {"path probing"}
    policies, findings = load_tree(out)
    assert [item for item in findings if item.severity == "error"] == []
    assert {item.name for item in policies.services} == {"cart", "orders"}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(["learn", "propose", "--from", str(flows), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    text = capsys.readouterr()
    assert "NEXT SESSION" in text.out
    assert "quarantined" in text.err


def test_captures_are_attributed_by_a_map(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "map.jsonl"
    rows = [
        {"ip": "127.0.0.1", "spiffe_id": "spiffe://td/ns/a/sa/client"},
        {"ip": "127.0.0.1", "port": 18099, "spiffe_id": "spiffe://td/ns/a/sa/web"},
        {"ip": "::1", "port": 18098, "spiffe_id": "spiffe://td/ns/a/sa/web6"},
        {"ip": "::1", "spiffe_id": "spiffe://td/ns/a/sa/client"},
    ]
    known.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("loopback-tcpdump.pcap", "loopback-tshark.pcapng"):
        out = tmp_path / name
        arguments = ["--from", str(DATA / name), "--workloads", str(known), "--out", str(out), "-o", "json"]
        assert run(["learn", "propose", *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {item["service"] for item in found["services"]} == {"web", "web6"}
        assert found["rules"] == 2


def test_schedules_that_were_not_seen_are_open(
    flows: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "schedules.jsonl"
    row = {"spiffe_id": f"{worlds.NS}job", "destination": f"{worlds.NS}orders", "cron": "0 0 1 * *"}
    plan.write_text(json.dumps(row) + "\n")
    arguments = ["--from", str(flows), "--schedules", str(plan), "--out", str(tmp_path / "o"), "-o", "json"]
    assert run(["learn", "propose", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any("0 0 1 * *" in text for item in found["services"] for text in item["open"])
    plan.write_text("{}\n")
    assert run(["learn", "propose", *arguments]) == 2
    assert "LM4005" in capsys.readouterr().err


def test_what_cannot_be_done_says_why(
    flows: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.write_text('{"start": 1, "destination_port": 1, "protocol": "tcp"}\n')
    assert run(["learn", "propose", "--from", str(empty), "--out", str(tmp_path / "o")]) == 2
    assert "LM4004" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "hand-written.yaml").write_text("x")
    assert run(["learn", "propose", "--from", str(flows), "--out", str(tmp_path / "mine")]) == 2
    assert "LM4006" in capsys.readouterr().err
    assert run(["learn", "drift", "--policies", "x"]) == 2
    assert "LM2203" in capsys.readouterr().err


GATEWAY = "spiffe://sim.test/ns/edge/sa/egress"


@pytest.fixture
def leaving(tmp_path: pathlib.Path) -> pathlib.Path:
    """Calls inside, and calls of the cart to a name outside, as `limen flows table` or a sidecar tell of them."""
    path = tmp_path / "leaving.jsonl"
    rows = [item.to_json() for item in worlds.shop()]
    out = {"host": "api.cards.test", "destination": None, "destination_ip": "192.0.2.7", "destination_port": 443}
    rows += [
        {**row, **out, "protocol": "tcp", "method": None, "path": None, "status": None}
        for row in rows
        if str(row["destination"]).endswith("/orders")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_calls_to_names_outside_become_rules_of_the_gateway_in_a_new_tree_and_in_one_that_is_kept(
    leaving: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["learn", "propose", "--from", str(leaving), "--egress", f"{GATEWAY}:8080", "-o", "json"]
    assert run([*words, "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["egress_rules"] == "egress-egress.yaml"
    assert found["egress"][0]["exempt"] == "dns:api.cards.test:443"
    text = (out / "egress-egress.yaml").read_text()
    assert "n: " in text
    ask = ["can", f"{worlds.NS}cart", "egress:8080", "GET", "/", "--policies", str(out), "--header"]
    assert run([*ask, "host=api.cards.test"]) == 0
    assert run([*ask, "host=evil.test"]) == 1
    # again, over the tree that is there now: it is kept, comments and all, and a name that is new is one rule more
    (out / "egress-egress.yaml").write_text(text.replace("rules:", "rules:  # by the network team"))
    more = tmp_path / "more.jsonl"
    more.write_text(leaving.read_text().replace("api.cards.test", "hooks.example.org"))
    assert run([*words, "--from", str(more), "--policies", str(out), "--out", str(out)]) == 0
    policies, findings = load_tree(out)
    assert [item for item in findings if item.severity == "error"] == []
    assert [item.name for item in policies.services].count("egress") == 1
    (policy,) = (item for item in policies.policies if item.name == "egress-egress")
    assert [rule.id for rule in policy.rules] == ["cart-to-api.cards.test", "cart-to-hooks.example.org"]
    assert "by the network team" in (out / "egress-egress.yaml").read_text()
    capsys.readouterr()
    assert run([*ask, "host=hooks.example.org"]) == 0


@pytest.mark.parametrize("gateway", ["egress", f"{GATEWAY}:0", GATEWAY])
def test_a_gateway_is_an_identity_with_a_port(leaving: pathlib.Path, tmp_path: pathlib.Path, gateway: str) -> None:
    assert run(["learn", "propose", "--from", str(leaving), "--egress", gateway, "--out", str(tmp_path / "o")]) == 2


def test_a_gateway_of_a_tree_has_the_port(leaving: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = ["learn", "propose", "--from", str(leaving), "--policies", str(tmp_path / "tree"), "--out"]
    assert run([*words[:4], "--egress", f"{GATEWAY}:8080", "--out", str(tmp_path / "tree")]) == 0
    assert run([*words, str(tmp_path / "tree"), "--egress", f"{GATEWAY}:9090"]) == 2
