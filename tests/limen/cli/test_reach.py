import json
from typing import Any

import pytest

from limen.__main__ import run

TREE = """\
apiVersion: limen.dev/v1
kind: Service
metadata: {name: web, owner: shop}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/web"]
  ports: [{port: 8080, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Service
metadata: {name: cart, owner: shop}
spec:
  identities: ["spiffe://corp.test/ns/shop/sa/cart"]
  ports: [{port: 8080, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Service
metadata: {name: payments, owner: money}
spec:
  identities: ["spiffe://corp.test/ns/pci/sa/payments"]
  ports: [{port: 8443, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Group
metadata: {name: pci, owner: money}
spec: {members: ["spiffe://corp.test/ns/pci/**"]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: cart, owner: shop}
spec:
  service: cart
  tier: app
  rules:
  - {id: from-web, effect: allow, from: ["service:web"]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: payments, owner: money}
spec:
  service: payments
  tier: app
  rules:
  - {id: inside, effect: allow, from: ["group:pci"]}
"""
DOOR = """  - {id: door, effect: allow, from: ["service:cart"], to: [{methods: [POST], paths: ["/pay"]}]}
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


def ask(capsys: Any, verb: str, *words: str) -> tuple[int, Any]:
    status = run(["policy", verb, *words, "-o", "json"])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else None


def test_nobody_outside_of_a_group_reaches_a_service(trees: Any, capsys: Any) -> None:
    words = ["--policies", trees("t", TREE), "--outside", "group:pci", "--to", "payments"]
    assert ask(capsys, "reach", *words) == (
        1, {"service": "payments", "reachable": False, "access": [], "through": []},
    )  # fmt: skip


GATEWAY = """---
apiVersion: limen.dev/v1
kind: Service
metadata: {name: gateway, owner: money}
spec:
  identities: ["spiffe://corp.test/ns/pci/sa/gateway"]
  ports: [{port: 8443, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: gateway, owner: money}
spec:
  service: gateway
  tier: app
  rules:
  - {id: from-cart, effect: allow, from: ["service:cart"]}
"""


def test_whoever_a_member_of_the_group_lets_in_reaches_the_service_through_it(trees: Any, capsys: Any) -> None:
    tree = trees("t", TREE + GATEWAY)
    words = ["--policies", tree, "--outside", "group:pci", "--to", "payments"]
    status, found = ask(capsys, "reach", *words)
    assert (status, found["reachable"], found["access"]) == (0, True, [])
    assert [(way["via"], [row["source"].rpartition("/")[2] for row in way["access"]]) for way in found["through"]] == [
        (["gateway"], ["cart"]),
        (["cart", "gateway"], ["web"]),
    ]
    assert ask(capsys, "reach", *words, "--direct") == (
        1, {"service": "payments", "reachable": False, "access": [], "through": []},
    )  # fmt: skip
    run(["policy", *("reach", *words)])
    assert "payments: nobody directly\nthrough gateway → payments\n" in capsys.readouterr().out


def test_names_who_does_and_by_which_rule(trees: Any, capsys: Any) -> None:
    words = ["--policies", trees("t", TREE + DOOR), "--outside", "group:pci", "--to", "payments"]
    status, found = ask(capsys, "reach", *words)
    assert status == 0
    (row,) = found["access"]
    assert (row["source"], row["methods"], row["paths"]) == ("spiffe://corp.test/ns/shop/sa/cart", ["POST"], ["/pay"])
    assert row["because"] == ["payments/door"]
    assert row["replayed"] is True


@pytest.mark.parametrize("caller", ["cart", "service:cart", "spiffe://corp.test/ns/shop/**"])
def test_takes_callers_as_rules_name_them(trees: Any, capsys: Any, caller: str) -> None:
    status, _ = ask(capsys, "reach", "--policies", trees("t", TREE + DOOR), "--from", caller, "--to", "payments")
    assert status == 0


def test_follows_an_identity_through_services(trees: Any, capsys: Any) -> None:
    status, found = ask(capsys, "reach", "--policies", trees("t", TREE + DOOR), "--of", "web")
    assert status == 0
    assert [(item["service"], item["hops"], item["via"]) for item in found["reaches"]] == [
        ("cart", 1, []),
        ("payments", 2, ["cart"]),
    ]


def test_an_identity_that_reaches_nothing_exits_1(trees: Any, capsys: Any) -> None:
    assert ask(capsys, "reach", "--policies", trees("t", TREE), "--of", "spiffe://other.test/a")[0] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "payments", "--outside", "group:pic"],
        ["--to", "payment"],
        ["--of", "service:wep"],
        ["--of", "web", "--to", "cart"],
        ["--of", "web", "--from", "any"],
        ["--of", "web", "--direct"],
        ["--to", "cart", "--from", "spiffe://no/../path"],
        [],
    ],
    ids=" ".join,
)
def test_refuses_questions_about_nothing(trees: Any, capsys: Any, words: list[str]) -> None:
    assert ask(capsys, "reach", "--policies", trees("t", TREE), *words) == (2, None)


def test_a_rollout_that_moves_a_door_is_not_safe(trees: Any, capsys: Any) -> None:
    old, new = TREE.replace('"service:web"', '"spiffe://x.test/a"') + DOOR, TREE
    status, found = ask(capsys, "rollout", "--policies", trees("new", new), "--against", trees("old", old))
    assert status == 1
    assert found["safe"] is False
    (chain,) = found["chains"]
    assert chain["source"].endswith("/web")
    assert chain["hops"] == [
        {"service": "cart", "allowed_by": ["new"]},
        {"service": "payments", "allowed_by": ["old"]},
    ]


def test_a_rollout_that_only_adds_is_safe(trees: Any, capsys: Any) -> None:
    words = ["--policies", trees("new", TREE + DOOR), "--against", trees("old", TREE)]
    assert ask(capsys, "rollout", *words) == (0, {"safe": True, "chains": []})


def test_tables_say_the_same(trees: Any, capsys: Any) -> None:
    tree = trees("t", TREE + DOOR)
    run(["policy", "reach", "--policies", tree, "--of", "web"])
    assert "cart → payments" in capsys.readouterr().out
    run(["policy", "reach", "--policies", tree, "--to", "payments"])
    assert "payments/door" in capsys.readouterr().out
    run(["policy", "rollout", "--policies", tree, "--against", tree])
    assert capsys.readouterr().out.startswith("safe")
