import datetime as dt
import json
import pathlib
from collections.abc import Callable

import pytest

from limen.__main__ import run
from mesh.flow import Flow
from policyengine.loader import load_tree
from tests.learner.worlds import NS, START, flow, shop

Answer = tuple[int, dict[str, object]]
Ask = Callable[..., Answer]


def save(path: pathlib.Path, flows: list[Flow]) -> pathlib.Path:
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in flows))
    return path


@pytest.fixture
def ask(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(tree: pathlib.Path, flows: list[Flow], *more: str) -> Answer:
        file = save(tmp_path / "asked.jsonl", flows)
        capsys.readouterr()
        status = run(["learn", "drift", "--policies", str(tree), "--from", str(file), "-o", "json", *more])
        return status, json.loads(capsys.readouterr().out)

    return asked


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    out = tmp_path / "tree"
    file = save(tmp_path / "learned.jsonl", shop())
    assert run(["learn", "propose", "--from", str(file), "--out", str(out)]) == 0
    return out


def rule(name: str, caller: str) -> str:
    head = f'  - id: {name}\n    effect: allow\n    from: ["{NS}{caller}"]\n'
    return head + '    to: [{ports: [8080], methods: [GET], paths: ["/x"]}]\n'


def later(days: int, count: int = 3) -> list[Flow]:
    moved = dt.timedelta(days=days)
    return [_moved(item, moved) for item in shop(days=count)]


def _moved(item: Flow, by: dt.timedelta) -> Flow:
    import dataclasses

    return dataclasses.replace(item, start=item.start + by)


def test_traffic_that_the_tree_was_learned_from_is_no_drift(ask: Ask, tree: pathlib.Path) -> None:
    status, found = ask(tree, shop())
    assert status == 0
    assert found["drift"] is False
    assert found["changes"] == []


def test_new_access_is_drift_and_becomes_a_change(ask: Ask, tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "changed"
    extra = [flow("web", "orders", START + dt.timedelta(days=4), path="/orders/5")]
    before = {path.name: path.read_text() for path in tree.iterdir()}
    status, found = ask(tree, [*later(3), *extra], "--out", str(out))
    assert status == 1
    (new,) = found["new"]  # type: ignore[misc]
    assert (new["source"], new["service"], new["method"], new["path"]) == (
        f"{NS}web",
        "orders",
        "GET",
        "/orders/{id:int}",
    )
    assert {path.name: path.read_text() for path in tree.iterdir()} == before
    policies, findings = load_tree(out)
    assert not [item for item in findings if item.severity == "error"]
    assert run(["can", f"{NS}web", "orders:8080", "GET", "/orders/5", "--policies", str(out)]) == 0
    assert len(policies.services) == 2


def test_access_that_vanished_is_drift(ask: Ask, tree: pathlib.Path) -> None:
    status, found = ask(tree, [item for item in later(3, 8) if item.destination != f"{NS}orders"])
    assert status == 1
    assert [(item["service"], item["rule"]) for item in found["vanished"]] == [("orders", "from-cart")]  # type: ignore[attr-defined]
    assert found["vanished"][0]["is_due"] is False  # type: ignore[index]


def test_access_that_was_never_used_is_drift(ask: Ask, tree: pathlib.Path) -> None:
    file = tree / "orders.yaml"
    file.write_text(file.read_text() + rule("by-hand", "ops"))
    status, found = ask(tree, later(3))
    assert status == 1
    assert [item["rule"] for item in found["never_used"]] == ["by-hand"]  # type: ignore[attr-defined]
    assert found["changes"] == []


def test_what_was_silent_for_the_stated_time_is_tightened(ask: Ask, tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "tight"
    rest = [item for item in later(3, 9) if item.destination != f"{NS}orders"]
    status, found = ask(tree, rest, "--unused-after", "5", "--out", str(out))
    assert status == 1
    assert [item["kind"] for item in found["changes"]] == ["rule removed"]  # type: ignore[attr-defined]
    assert run(["can", f"{NS}cart", "orders:8080", "GET", "/orders/5", "--policies", str(out)]) == 1
    assert run(["can", f"{NS}cart", "orders:8080", "GET", "/orders/5", "--policies", str(tree)]) == 0


def test_a_rule_used_monthly_is_not_unused_after_two_weeks(
    ask: Ask, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monthly = [flow("closer", "ledger", START + dt.timedelta(days=30 * n), path="/close") for n in range(3)]
    out = tmp_path / "monthly"
    assert run(["learn", "propose", "--from", str(save(tmp_path / "m.jsonl", monthly)), "--out", str(out)]) == 0
    quiet = [_moved(item, dt.timedelta(days=61)) for item in shop(days=14)]
    other = tmp_path / "shop"
    assert run(["learn", "propose", "--from", str(save(tmp_path / "s.jsonl", quiet)), "--out", str(other)]) == 0
    for path in other.iterdir():
        (out / path.name).write_text(path.read_text())
    capsys.readouterr()
    status, found = ask(out, quiet)
    assert status == 0
    (waiting,) = found["waiting"]  # type: ignore[misc]
    assert waiting["rule"] == "from-closer"
    assert waiting["period_days"] == 30
    assert "say nothing yet" in waiting["reason"]
    status, found = ask(out, quiet, "--unused-after", "5")
    assert (status, found["changes"]) == (0, [])


def test_a_declared_schedule_explains_silence(ask: Ask, tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tree / "orders.yaml"
    file.write_text(file.read_text() + rule("yearly", "audit"))
    (tmp_path / "crontab").write_text("0 0 1 1 * root /usr/bin/audit\n")
    status, found = ask(tree, later(3), "--schedules", str(tmp_path / "crontab"))
    assert status == 0
    assert [item["rule"] for item in found["waiting"]] == ["yearly"]  # type: ignore[attr-defined]


def test_suspicious_access_is_named_and_never_opened(ask: Ask, tree: pathlib.Path) -> None:
    attack = [
        flow("cart", f"db{n}", START + dt.timedelta(days=5, minutes=n), path="/q", replica="cart-1") for n in range(8)
    ]
    status, found = ask(tree, [*later(3), *attack])
    assert status == 1
    assert {item["reason"] for item in found["suspicious"]} == {"burst of new edges"}  # type: ignore[attr-defined]
    assert found["changes"] == []


def test_a_tree_with_errors_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.yaml").write_text("kind: Nothing\n")
    file = save(tmp_path / "f.jsonl", shop(days=1))
    assert run(["learn", "drift", "--policies", str(tmp_path / "bad"), "--from", str(file)]) == 2
