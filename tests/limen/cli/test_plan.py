import json
from typing import Any

import pytest

from limen.__main__ import run

SERVICE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: team-data}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/db"]
  ports: [{port: 8080, protocol: http}]
---
"""
POLICY = """\
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: shop-db, owner: team-data}
spec:
  service: db
  tier: app
  rules:
  - id: orders
    effect: allow
    from: ["spiffe://corp.test/ns/shop/sa/cart"]
    to: [{methods: [GET], paths: ["/o/{id}"]}]
"""
INVARIANT = """---
apiVersion: limen.dev/v1
kind: Invariant
metadata: {name: no-carts, owner: team-data}
spec:
  forbid: {from: ["spiffe://corp.test/ns/shop/**"], service: db}
"""


@pytest.fixture
def trees(tmp_path: Any) -> Any:
    """Make a tree of a name with a text."""

    def make(name: str, text: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tree.yaml").write_text(text)
        return str(folder)

    return make


def plan(capsys: Any, *words: str) -> tuple[int, str]:
    status = run(["policy", "plan", *words])
    return status, capsys.readouterr().out


def test_exits_0_without_a_difference(trees: Any, capsys: Any) -> None:
    one, other = trees("one", SERVICE + POLICY), trees("other", SERVICE + POLICY)
    status, out = plan(capsys, "--policies", one, "--against", other, "-o", "json")
    assert status == 0
    assert json.loads(out)["complete"] is True


def test_exits_1_with_a_difference_in_the_public_form(trees: Any, capsys: Any) -> None:
    new, old = trees("new", SERVICE + POLICY), trees("old", SERVICE)
    status, out = plan(capsys, "--policies", new, "--against", old, "-o", "json")
    assert status == 1
    (row,) = json.loads(out)["newly_allowed"]
    assert (row["source"], row["service"], row["port"]) == ("spiffe://corp.test/ns/shop/sa/cart", "db", 8080)
    assert (row["methods"], row["paths"], row["replayed"]) == (["GET"], ["/o/{id}"], True)
    assert row["because"] == ["shop-db/orders"]


@pytest.mark.parametrize("output", ["table", "md"])
def test_a_table_cuts_long_lists_and_says_where_they_are_whole(trees: Any, capsys: Any, output: str) -> None:
    callers = "".join(
        f"""  - id: r{place}
    effect: allow
    from: ["spiffe://corp.test/ns/shop/sa/c{place}"]
    to: [{{methods: [GET], paths: ["/own-{place}/{{id}}"]}}]
"""
        for place in range(30)
    )
    text = POLICY[: POLICY.index("  - id")] + callers
    old = trees("old", SERVICE + text)
    new = trees("new", SERVICE.replace("\n---", "\n  mode: observe\n  until: 2999-01-01T00:00:00Z\n---") + text)
    status, out = plan(capsys, "--policies", new, "--against", old, "-o", output)
    assert status == 1
    assert "and 25 more: -o json" in out
    assert max(map(len, out.splitlines())) < 3000
    _, whole = plan(capsys, "--policies", new, "--against", old, "-o", "json")
    assert [len(row["when"].get("by_source", ())) for row in json.loads(whole)["newly_allowed"]] == [30, 0, 30]


def test_exits_1_when_an_invariant_is_broken(trees: Any, capsys: Any) -> None:
    new, old = trees("new", SERVICE + POLICY + INVARIANT), trees("old", SERVICE + POLICY)
    status, out = plan(capsys, "--policies", new, "--against", old)
    assert status == 1
    assert "invariant no-carts (db): BROKEN" in out


def test_replays_recorded_flows(trees: Any, capsys: Any, tmp_path: Any) -> None:
    flow = {
        "start": "2026-11-24T12:00:00Z",
        "source": "spiffe://corp.test/ns/shop/sa/cart",
        "destination": "spiffe://corp.test/ns/shop/sa/db",
        "destination_port": 8080,
        "protocol": "http",
        "method": "GET",
        "path": "/o/7",
    }
    lines = [json.dumps(flow), "", json.dumps({**flow, "path": "/x"})]
    (tmp_path / "flows.jsonl").write_text("\n".join(lines))
    new, old = trees("new", SERVICE), trees("old", SERVICE + POLICY)
    flows = ["--flows", str(tmp_path / "flows.jsonl")]
    _, out = plan(capsys, "--policies", new, "--against", old, *flows, "-o", "json")
    assert json.loads(out)["impact"] == {"same": 1, "newly_allowed": 0, "newly_denied": 1, "uncertain": 0}
    _, out = plan(capsys, "--policies", new, "--against", old, *flows)
    assert "newly denied  spiffe://corp.test/ns/shop/sa/cart" in out


def test_names_the_flows_that_nobody_can_be_sure_about_after_the_others(trees: Any, capsys: Any, tmp_path: Any) -> None:
    flow = {
        "start": "2026-11-24T12:00:00Z",
        "destination": "spiffe://corp.test/ns/shop/sa/db",
        "destination_port": 8080,
        "protocol": "http",
        "method": "GET",
        "path": "/o/7",
    }
    unknown, known = {**flow, "source_ip": "10.0.0.9"}, {**flow, "source": "spiffe://corp.test/ns/shop/sa/cart"}
    (tmp_path / "flows.jsonl").write_text("\n".join(map(json.dumps, (unknown, known))))
    words = ["--policies", trees("new", SERVICE), "--against", trees("old", SERVICE + POLICY)]
    _, out = plan(capsys, *words, "--flows", str(tmp_path / "flows.jsonl"))
    listed = [line.split()[0] for line in out.splitlines() if " → " in line]
    assert listed == ["newly", "uncertain"]
    assert "uncertain  10.0.0.9 → spiffe://corp.test/ns/shop/sa/db:8080 GET /o/7" in out


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"start": 1}', "[" * 100_000], ids=["text", "list", "field", "deep"]
)
def test_names_the_line_of_a_flow_that_cannot_be_read(trees: Any, capsys: Any, tmp_path: Any, line: str) -> None:
    (tmp_path / "flows.jsonl").write_text("\n" + line + "\n")
    words = ["--policies", trees("new", SERVICE), "--against", trees("old", SERVICE)]
    assert run(["policy", "plan", *words, "--flows", str(tmp_path / "flows.jsonl")]) == 2
    err = capsys.readouterr().err
    assert "LM2440" in err
    assert "line 2" in err


def test_writes_markdown_that_a_name_cannot_break_out_of(trees: Any, capsys: Any) -> None:
    new, old = trees("new", SERVICE + POLICY), trees("old", SERVICE)
    _, out = plan(capsys, "--policies", new, "--against", old, "-o", "md")
    assert "### Newly allowed: 1" in out
    from limen.cli.plan import _escaped

    assert _escaped("a|b<script>\n`x`") == "a\\|b&lt;script&gt; \\`x\\`"


def test_refuses_a_tree_with_errors(trees: Any, capsys: Any) -> None:
    broken = trees("broken", SERVICE.replace("http", "htp"))
    status, _ = plan(capsys, "--policies", broken, "--against", trees("old", SERVICE))
    assert status == 2


def test_asks_the_server_for_what_is_active(trees: Any, capsys: Any, tmp_path: Any) -> None:
    words = ["--state", str(tmp_path / "s"), "policy", "plan", "--policies", trees("new", SERVICE)]
    assert run(words) == 3
    assert "LM5201" in capsys.readouterr().err


def test_a_broken_invariant_stops_a_publish_before_anything_is_asked(trees: Any, capsys: Any, tmp_path: Any) -> None:
    tree = trees("new", SERVICE + POLICY + INVARIANT)
    assert run(["--state", str(tmp_path / "s"), "policy", "publish", "--policies", tree]) == 1
    assert "no-carts" in capsys.readouterr().err


def test_says_that_a_refactoring_is_equivalent(trees: Any, capsys: Any) -> None:
    split = POLICY.replace("id: orders", "id: renamed").replace("methods: [GET]", "methods: [GET, GET]")
    status, out = plan(capsys, "--policies", trees("new", SERVICE + split), "--against", trees("old", SERVICE + POLICY))
    assert status == 0
    assert "equivalent" in out
