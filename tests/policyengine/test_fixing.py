"""A fix in files: they say what the fix says, on generated trees too, or nothing is written."""

import dataclasses
import pathlib

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mesh.problems import Invalid
from mesh.request import Effect, Request
from policyengine import reference
from policyengine.fixes import smallest_fix
from policyengine.fixing import fixed
from policyengine.loader import read_tree
from policyengine.treefiles import TreeFile
from policyengine.yamltext import comments_of
from tests.examples import examples
from tests.policyengine.test_loader import DB, HEAD
from tests.policyengine.yamltexts import texts

ROOT = pathlib.Path("tree")
CART = "spiffe://corp.test/ns/shop/sa/cart"
POLICY = """kind: Policy
metadata: {name: p, owner: t}
spec:
  service: db
  tier: app
  rules:
"""
ALLOW = f'  - {{id: a, effect: allow, from: ["{CART}"], to: [{{paths: ["/a"]}}]}}  # a\n'


def file(text: str) -> TreeFile:
    return TreeFile(path=ROOT / "db.yaml", inside="db.yaml", is_module=False, text=text)


def written(text: str, request: Request) -> str:
    policies, _, _ = read_tree(ROOT, [file(text)])
    fix = smallest_fix(policies, request)
    assert fix is not None
    found = fixed(ROOT, [file(text)], policies, request, fix)
    assert reference.decide(found.policies, request, snapshot="").policy_effect is Effect.ALLOW
    (changed,) = found.files
    return changed.text


def ask(**fields: object) -> Request:
    standard = Request(service="db", port=8080, protocol="http", source=CART, method="GET", path="/a")
    return dataclasses.replace(standard, **fields)  # type: ignore[arg-type]  # fields of it


def test_a_deny_gets_its_exemption() -> None:
    deny = '  - id: d  # nobody\n    effect: deny\n    from: [any]\n    to: [{ports: [8080], paths: ["/a"]}]\n'
    result = written(DB + HEAD + POLICY + ALLOW + deny, ask())
    assert result == DB + HEAD + POLICY + ALLOW + deny + f'    unless: {{from: ["{CART}"]}}\n'


def test_a_new_rule_has_an_id_of_its_own() -> None:
    rule = '  - {id: cart, effect: deny, from: ["spiffe://corp.test/ns/x/**"]}\n'
    result = written(DB + HEAD + POLICY + rule, ask())
    assert f'  - id: cart-2\n    effect: allow\n    from: ["{CART}"]\n' in result


def test_an_exception_is_renewed_by_people() -> None:
    grant = (
        "kind: Exception\nmetadata: {name: e, owner: t}\nspec:\n"
        f'  rule: {{service: db, from: ["{CART}"]}}\n  until: "2026-01-01T00:00:00Z"\n  reason: x\n'
    )
    text = DB + HEAD + grant
    policies, _, _ = read_tree(ROOT, [file(text)])
    request = ask(time=reference.dt.datetime(2026, 11, 24, tzinfo=reference.dt.UTC))
    fix = smallest_fix(policies, request)
    assert fix is not None
    with pytest.raises(Invalid) as caught:
        fixed(ROOT, [file(text)], policies, request, fix)
    assert caught.value.code == "LM2206"


@settings(max_examples=examples(40), deadline=None)
@given(texts(), st.data())
def test_a_fix_of_any_file_allows_the_request_and_keeps_the_comments(text: str, data: st.DataObject) -> None:
    policies, _, findings = read_tree(ROOT, [file(text)])
    if findings or not policies.services:
        return
    service = data.draw(st.sampled_from(policies.services))
    port = data.draw(st.sampled_from(service.ports))
    source = data.draw(st.sampled_from((CART, "spiffe://corp.test/ns/x/sa/y")))
    request = Request(service=service.name, port=port.port, protocol=port.protocol, source=source)
    if port.protocol != "tcp":
        request = dataclasses.replace(request, method="GET", path=data.draw(st.sampled_from(("/a", "/x/7", "/"))))
    fix = smallest_fix(policies, request)
    if fix is None:
        return
    try:
        found = fixed(ROOT, [file(text)], policies, request, fix)
    except Invalid as problem:
        event(problem.code)
        assert problem.code in {"LM2206", "LM2712"}
        return
    event("written")
    asked = request
    for change in fix.changes:
        asked = change.on_request(asked)
    assert reference.decide(found.policies, asked, snapshot="").policy_effect is Effect.ALLOW
    if not any(change.field == "effect" for change in fix.changes):
        after = [item.text for item in comments_of(found.files[0].text)]
        assert [item.text for item in comments_of(text)] == after
