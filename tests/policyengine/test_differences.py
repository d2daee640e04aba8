"""What keeps an allow from matching, and nothing else."""

import pytest

from mesh.request import Request
from policyengine.attributes import read
from policyengine.differences import rule_differences
from tests.policyengine.corners import ADMIN, CLAIM_ADMIN, ROLE_ADMIN, allow, ask, tree


@pytest.mark.parametrize(
    ("rule", "request_", "fields"),
    [
        (allow(), ask(), [[]]),
        (allow(**{"from": [ADMIN]}, to=[{"methods": ["POST"]}]), ask(), [["from", "methods"]]),
        (
            allow(to=[{"methods": ["POST"], "paths": ["/x"]}, {"paths": ["/y"]}]),
            ask(),
            [["methods", "paths"], ["paths"]],
        ),
        (allow(to=[{"paths": ["/orders"]}]), ask(path=None, method=None), [["paths"]]),
        (allow(when={**ROLE_ADMIN, **CLAIM_ADMIN}), ask(), [["claims", "headers.x-role"]]),
        (allow(when={"forwarded_ip": ["10.0.0.0/8"]}), ask(), [["forwarded_ip"]]),
        (allow(unless={"when": ROLE_ADMIN}), ask(unknown=frozenset({"headers"})), [["unless"]]),
    ],
)
def test_differences(rule: dict[str, object], request_: Request, fields: list[list[str]]) -> None:
    policies = tree(app=[rule])
    facts = read(request_, "http", policies.headers_for("db"))
    ways = list(rule_differences(policies, "app-db", policies.policies[0].rules[0], facts))
    assert [[item.field for item in way] for way in ways] == fields


def test_a_path_with_pattern_characters_is_proposed_literally() -> None:
    policies = tree(app=[allow(to=[{"paths": ["/orders"]}])])
    facts = read(ask(path="/a*/{x}"), "http", frozenset())
    ((found,),) = rule_differences(policies, "app-db", policies.policies[0].rules[0], facts)
    assert found.fix == "add `/a%2A/%7Bx%7D` to `paths`"
    assert found.edit is not None
    edited = found.edit(policies.policies[0].rules[0])
    assert edited.to is not None
    assert edited.to[0].paths is not None
    assert facts.path is not None
    assert edited.to[0].paths[-1].matches(facts.path)
