"""`limen can`: the answer, its exit status, and the nearest miss."""

import json
import pathlib

import pytest
from click.testing import CliRunner, Result

from limen.cli.can import can
from mesh.problems import Invalid

TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: t}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/db"]
  ports: [{port: 8080, protocol: http}, {port: 5432, protocol: tcp}]
---
apiVersion: limen.dev/v1
kind: Service
metadata: {name: cart, owner: t}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/cart"]
  ports: [{port: 80, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: shop-db, owner: t}
spec:
  service: db
  tier: app
  rules:
  - id: orders
    effect: allow
    from: ["service:cart"]
    to: [{ports: [8080], methods: [GET], paths: ["/orders"]}]
  - id: refunds
    effect: allow
    from: ["service:cart"]
    to: [{ports: [8080], methods: [POST], paths: ["/refunds"]}]
    when: {claims: {issuer: "https://idp.test", roles: [refunds]}, headers: {x-tenant: [a]}}
  - id: plain
    effect: allow
    from: ["spiffe://corp.test/ns/ops/**"]
    to: [{ports: [5432]}]
"""


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "db.yaml").write_text(TREE)
    return folder


def run(tree: pathlib.Path, *args: str) -> Result:
    return CliRunner().invoke(can, [*args, "--policies", str(tree)])


def test_allowed_exits_0_and_names_the_rule(tree: pathlib.Path) -> None:
    done = run(tree, "cart", "db", "GET", "/orders?x=1", "-o", "json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["decision"], found["tier"], found["policy"], found["rule"]) == ("allow", "app", "shop-db", "orders")
    assert found["nearest"] is None
    assert found["candidate"] is None
    assert set(found) == {
        "decision", "policy_decision", "mode", "snapshot", "tier", "policy", "rule", "code", "candidate", "nearest",
        "file", "line", "column", "path", "ambiguous",
    }  # fmt: skip
    assert (found["file"], found["line"]) == (str(tree / "db.yaml"), 22)
    assert [(step["tier"], step["reached"], step["effect"], step["rule"]) for step in found["path"]] == [
        ("guardrail", True, None, ""),
        ("app", True, "allow", "orders"),
        ("baseline", False, None, ""),
    ]


def test_denied_exits_1_with_the_nearest_miss(tree: pathlib.Path) -> None:
    done = run(tree, "spiffe://corp.test/ns/shop/sa/cart", "db:8080", "PUT", "/orders", "-o", "json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["decision"], found["code"]) == ("deny", "LM2302")
    assert found["nearest"]["rule"] == "orders"
    assert found["nearest"]["differs"] == ["methods"]
    assert "add `PUT` to `methods`" in found["nearest"]["fix"]
    assert (found["nearest"]["file"], found["nearest"]["line"]) == (str(tree / "db.yaml"), 22)
    (change,) = found["nearest"]["changes"]
    assert (change["changes"], change["policy"], change["rule"], change["field"]) == (
        "policy", "shop-db", "orders", "methods",
    )  # fmt: skip


def test_text_names_rule_place_and_fix(tree: pathlib.Path) -> None:
    done = run(tree, "cart", "db", "PUT", "/orders")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("× denied")  # noqa: RUF001  the check mark
    assert "shop-db, rule orders" in done.stdout
    assert "db.yaml:22" in done.stdout
    assert any(line.startswith("  fix") for line in lines)
    assert "  path     guardrail no match → app no match → baseline no match" in lines


def test_headers_and_claims_are_part_of_the_question(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    claims = tmp_path / "claims.json"
    claims.write_text('{"iss": "https://idp.test", "roles": ["refunds"]}')
    question = ("cart", "db", "POST", "/refunds", "--claims", str(claims))
    assert run(tree, *question).exit_code == 1
    assert run(tree, *question, "--header", "X-Tenant=a").exit_code == 0


def test_ports_without_a_request(tree: pathlib.Path) -> None:
    assert run(tree, "spiffe://corp.test/ns/ops/sa/x", "db:5432").exit_code == 0
    assert run(tree, "cart", "db:8080").exit_code == 1  # nothing allows cart whatever it asks
    assert run(tree, "cart", "spiffe://corp.test/ns/shop/sa/db:8080", "GET", "/orders").exit_code == 0


def test_ambiguous_path_is_explained(tree: pathlib.Path) -> None:
    done = run(tree, "cart", "db", "GET", "/orders;x")
    assert done.exit_code == 1
    assert "refused before any rule" in done.stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("cart", "dbb", "GET", "/"), "LM2201"),
        (("cart", "db"), "LM2201"),
        (("cartt", "db", "GET", "/"), "LM2202"),
        (("cart", "db", "GET", "/", "--header", "x"), "LM2204"),
        (("cart", "db:0", "GET", "/"), "LM2201"),
        (("cart", "db:65536", "GET", "/"), "LM2201"),
        (("cart", "db:" + "9" * 5000, "GET", "/"), "LM2201"),
    ],
)
def test_questions_that_cannot_be_asked(tree: pathlib.Path, args: tuple[str, ...], code: str) -> None:
    done = run(tree, *args)
    assert isinstance(done.exception, Invalid)
    assert (done.exception.code, done.exception.exit_status) == (code, 2)


def test_a_path_is_typed_as_text_and_asked_about_as_it_is_sent(tree: pathlib.Path) -> None:
    found = json.loads(run(tree, "cart", "db", "GET", "/orders/ß€", "-o", "json").stdout)
    assert (found["code"], found["ambiguous"]) == ("LM2302", {})
    assert "/orders/%C3%9F%E2%82%AC" in found["nearest"]["fix"]


def test_method_needs_a_path(tree: pathlib.Path) -> None:
    assert run(tree, "cart", "db", "GET").exit_code == 2


def test_a_tree_with_errors_is_refused(tree: pathlib.Path) -> None:
    (tree / "x.yaml").write_text("kind: Policy\n")
    done = run(tree, "cart", "db", "GET", "/")
    assert isinstance(done.exception, Invalid)
    assert done.exception.code == "LM2203"
    assert "LM2003" in done.stderr


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000], ids=["list", "cut", "deep"])
def test_claims_that_are_no_object_are_refused(tree: pathlib.Path, tmp_path: pathlib.Path, text: str) -> None:
    claims = tmp_path / "claims.json"
    claims.write_text(text)
    done = run(tree, "cart", "db", "GET", "/orders", "--claims", str(claims))
    assert isinstance(done.exception, Invalid)
    assert done.exception.code == "LM2204"


def test_a_question_without_a_request_is_told_which_requests_are_allowed(tree: pathlib.Path) -> None:
    result = run(tree, "cart", "db:8080")
    assert result.exit_code == 1
    assert "the question names none: give METHOD and PATH" in result.stdout
    assert "GET /orders on port 8080" in result.stdout
    assert "fix" not in result.stdout
    found = json.loads(run(tree, "cart", "db:8080", "-o", "json").stdout)
    assert [(row["methods"], row["paths"]) for row in found["requests"]] == [
        (["GET"], ["/orders"]),
        (["POST"], ["/refunds"]),
    ]
    assert "no request of this caller" in run(tree, "spiffe://corp.test/x", "db:8080").stdout
    # on a tcp port a connection is all there is
    assert "requests" not in json.loads(run(tree, "cart", "db:5432", "-o", "json").stdout)
