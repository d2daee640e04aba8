"""An edit changes what it is about and keeps every other byte."""

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mesh.problems import Invalid
from mesh.yamlio import compose_documents
from policyengine.edits import add_port, add_rule, change_rule, remove_policy, remove_rule, set_list
from policyengine.loader import load_text
from policyengine.yamltext import comments_of
from tests.examples import examples
from tests.policyengine.test_loader import DB, HEAD
from tests.policyengine.yamltexts import texts

TEXT = (
    DB
    + HEAD
    + """kind: Policy
metadata: {name: p, owner: t}  # ours
spec:
  service: db
  tier: app
  rules:
  # who reads
  - id: read
    effect: allow
    from:
    # the cart
    - "spiffe://corp.test/ns/shop/sa/cart"  # since May
    - "spiffe://corp.test/ns/shop/sa/web"
    to:
    - {methods: [GET],   paths: ["/a"]}   # odd spaces stay
    # deep in read

  # who writes
  - {id: write, effect: allow, from: [
      "spiffe://corp.test/ns/shop/sa/cart"
    ]}
  # at the end
# below
"""
)
NEW = {
    "id": "new",
    "effect": "allow",
    "from": ["spiffe://corp.test/ns/shop/sa/new"],
    "to": [{"ports": [8080], "methods": ["GET"], "paths": ["/x", "/y"]}],
}


def kept(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that went and the lines that came."""
    old, new = before.split("\n"), after.split("\n")
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_a_rule_is_added_behind_the_others() -> None:
    result = add_rule(TEXT, "p", NEW)
    assert kept(TEXT, result) == (
        [],
        [
            "  - id: new",
            '    from: ["spiffe://corp.test/ns/shop/sa/new"]',
            '    - {ports: [8080], methods: [GET], paths: ["/x", "/y"]}',
        ],
    )
    assert result.index("id: new") < result.index("# at the end")
    policies, found = load_text(result, "f.yaml")
    assert [rule.id for rule in policies.policies[0].rules] == ["read", "write", "new"]
    assert found == []


def test_a_rule_goes_with_its_comments_and_no_others() -> None:
    result = remove_rule(TEXT, "p", "read")
    assert [item.text for item in comments_of(result)] == ["# ours", "# who writes", "# at the end", "# below"]
    result = remove_rule(TEXT, "p", "write")
    assert "# who writes" not in result
    assert "# deep in read" in result
    assert "# at the end" in result


def test_a_list_of_lines_keeps_the_lines_of_what_stays() -> None:
    new = ["spiffe://corp.test/ns/shop/sa/batch", "spiffe://corp.test/ns/shop/sa/cart"]
    gone, came = kept(TEXT, set_list(TEXT, "p", "read", ("from",), new))
    assert gone == ['    - "spiffe://corp.test/ns/shop/sa/web"']
    assert came == ['    - "spiffe://corp.test/ns/shop/sa/batch"']
    result = set_list(TEXT, "p", "read", ("from",), ["any"])
    assert "# the cart" not in result
    assert load_text(result, "f.yaml")[1] == []


def test_a_list_in_brackets_is_replaced_alone() -> None:
    gone, came = kept(TEXT, set_list(TEXT, "p", "read", ("to", 0, "paths"), ["/a", "/b/{x}", "/c"]))
    assert gone == ['    - {methods: [GET],   paths: ["/a"]}   # odd spaces stay']
    assert came == ['    - {methods: [GET],   paths: ["/a", "/b/{x}", "/c"]}   # odd spaces stay']
    result = set_list(TEXT, "p", "write", ("from",), ["any"])
    assert "  - {id: write, effect: allow, from: [any]}" in result


@pytest.mark.parametrize(
    "edit",
    [
        lambda: add_rule(TEXT, "q", NEW),
        lambda: add_rule(TEXT, "p", {**NEW, "id": "read"}),
        lambda: remove_rule(TEXT, "p", "reed"),
        lambda: remove_rule(remove_rule(TEXT, "p", "read"), "p", "write"),
        lambda: set_list(TEXT, "p", "read", ("from",), []),
        lambda: set_list(TEXT, "p", "read", ("effect",), ["deny"]),
        lambda: set_list(TEXT, "p", "read", ("to", 1, "paths"), ["/a"]),
        lambda: set_list(TEXT, "p", "read", ("when", "peer_ip"), ["10.0.0.0/8"]),
        lambda: remove_rule(TEXT.replace("  - {id: write", "  - {id: read"), "p", "read"),
    ],
    ids=range(9),
)
def test_an_edit_without_a_place_is_refused(edit: object) -> None:
    with pytest.raises(Invalid) as caught:
        edit()  # type: ignore[operator]  # a list of calls
    assert caught.value.code == "LM2712"


def test_a_file_with_findings_is_not_edited() -> None:
    with pytest.raises(Invalid) as caught:
        remove_rule(TEXT.replace("tier: app", "tier: no"), "p", "read")
    assert caught.value.code == "LM5109"


@settings(max_examples=examples(25), deadline=None)
@given(texts(), st.data())
def test_edits_of_any_file_say_what_was_asked_and_keep_the_comments_of_the_rest(text: str, data: st.DataObject) -> None:
    before = load_text(text, "f.yaml")[0]
    if not before.policies:
        return
    policy = data.draw(st.sampled_from(before.policies))
    rule = data.draw(st.sampled_from(policy.rules))
    kind = data.draw(st.sampled_from(("add", "remove", "set")))
    try:
        if kind == "add":
            result = add_rule(text, policy.name, {"id": "new", "effect": "deny", "from": ["any"]})
        elif kind == "remove":
            result = remove_rule(text, policy.name, rule.id)
        else:
            result = set_list(text, policy.name, rule.id, ("from",), ["any", "group:auditors"])
    except Invalid as problem:
        event(f"{kind} {problem.code}")
        assert problem.code == "LM2712"
        return
    event(kind)
    after = next(found for found in load_text(result, "f.yaml")[0].policies if found.name == policy.name)
    ids = [found.id for found in policy.rules]
    if kind == "add":
        assert [found.id for found in after.rules] == [*ids, "new"]
        assert [item.text for item in comments_of(result)] == [item.text for item in comments_of(text)]
    elif kind == "remove":
        assert [found.id for found in after.rules] == [found for found in ids if found != rule.id]
    else:
        assert {str(item) for found in after.rules if found.id == rule.id for item in found.from_} == {
            "any",
            "group:auditors",
        }
        others = [found for found in policy.rules if found.id != rule.id]
        assert [found for found in after.rules if found.id != rule.id] == others


def test_a_rule_is_brought_to_say_more_and_keeps_its_lines() -> None:
    before = load_plain(TEXT, "read")
    wanted = {
        **before,
        "from": [*before["from"], "spiffe://corp.test/ns/shop/sa/batch"],
        "to": [{**before["to"][0], "ports": [8080]}],
        "unless": {"from": ["spiffe://corp.test/ns/x/**"]},
    }
    gone, came = kept(TEXT, change_rule(TEXT, "p", "read", wanted))
    assert gone == ['    - {methods: [GET],   paths: ["/a"]}   # odd spaces stay']
    assert came == [
        '    - "spiffe://corp.test/ns/shop/sa/batch"',
        '    - {methods: [GET],   paths: ["/a"], ports: [8080]}   # odd spaces stay',
        '    unless: {from: ["spiffe://corp.test/ns/x/**"]}',
    ]


def test_a_field_goes_with_the_comments_above_it() -> None:
    before = load_plain(TEXT, "read")
    without = {name: value for name, value in before.items() if name != "from"}
    result = change_rule(TEXT, "p", "read", without)
    assert "# the cart" not in result
    assert load_plain(result, "read") == without
    flow = change_rule(TEXT, "p", "read", {**before, "to": [{"paths": ["/a"]}]})
    assert '    - {paths: ["/a"]}   # odd spaces stay\n' in flow
    assert change_rule(TEXT, "p", "read", before) == TEXT


@pytest.mark.parametrize(
    "wanted",
    [
        {"effect": "deny"},
        {"id": "other"},
        {"to": [{"methods": ["GET"]}, {"methods": ["PUT"]}]},
        {"when": 7, "from": {}},
    ],
    ids=["effect", "id", "another-entry", "another-kind"],
)
def test_what_is_no_list_and_no_field_is_not_changed(wanted: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        change_rule(TEXT, "p", "read", {**load_plain(TEXT, "read"), **wanted})
    assert caught.value.code == "LM2712"


def load_plain(text: str, rule: str) -> dict[str, Any]:
    nodes, _ = compose_documents(text, "f.yaml")
    plain: Any = nodes[1].plain()
    return next(item for item in plain["spec"]["rules"] if item["id"] == rule)


TREE_OF_TWO = """# first
kind: Service
metadata: {name: db}
spec:
  ports: [{port: 1, protocol: tcp}]  # one
---
kind: Service
metadata: {name: web}
spec:
  ports:
  - port: 2
    protocol: http
  # the end
---
# about the database
kind: Policy
metadata: {name: p}
spec:
  rules:
  - id: a
"""


@pytest.mark.parametrize("service", ["db", "web"], ids=["in-brackets", "on-lines"])
def test_a_port_is_added_and_nothing_else_changes(service: str) -> None:
    found = add_port(TREE_OF_TWO, service, 9, "grpc")
    assert "{port: 9, protocol: grpc}" in found
    kept = [line for line in found.splitlines() if line in TREE_OF_TWO.splitlines()]
    assert len(kept) >= len(TREE_OF_TWO.splitlines()) - 1


def test_a_port_of_an_unknown_service_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        add_port(TREE_OF_TWO, "x", 9, "grpc")
    assert caught.value.code == "LM2712"


def test_a_policy_goes_with_its_document_and_the_others_stay() -> None:
    found = remove_policy(TREE_OF_TWO, "p")
    assert TREE_OF_TWO.startswith(found.rstrip())
    assert "kind: Policy" not in found
    with pytest.raises(Invalid):
        remove_policy(found, "p")


def test_the_first_and_the_only_document_can_go() -> None:
    first = "kind: Policy\nmetadata: {name: p}\n---\nkind: Service\nmetadata: {name: s}\n"
    assert remove_policy(first, "p") == "kind: Service\nmetadata: {name: s}\n"
    assert remove_policy("kind: Policy\nmetadata: {name: p}\n", "p") == ""
