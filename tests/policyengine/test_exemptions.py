"""The ways round a deny, each a list of changes."""

import pytest

from mesh.request import Request
from policyengine.attributes import read
from policyengine.exemptions import exemptions
from tests.policyengine.corners import ADMIN, CART, CLAIM_ADMIN, ROLE_ADMIN, TD, ask, deny, tree


@pytest.mark.parametrize(
    ("rule", "request_", "ways"),
    [
        pytest.param(deny(), ask(), [["unless"], ["effect"]], id="anybody"),
        pytest.param(deny(**{"from": [CART, ADMIN]}), ask(), [["from"], ["effect"]], id="the-caller-by-name"),
        pytest.param(deny(**{"from": [CART]}), ask(), [["unless"], ["effect"]], id="the-caller-alone"),
        pytest.param(deny(**{"from": [CART, f"{TD}/**"]}), ask(), [["unless"], ["effect"]], id="the-caller-twice"),
        pytest.param(deny(unless={"when": CLAIM_ADMIN}), ask(), [["claims"], ["effect"]], id="a-token-helps"),
        pytest.param(
            deny(unless={"from": [ADMIN], "when": CLAIM_ADMIN}), ask(), [["effect"]], id="a-token-helps-others"
        ),
        pytest.param(
            deny(when=ROLE_ADMIN),
            ask(headers=(("x-role", "admin"),)),
            [["unless"], ["headers.x-role"], ["effect"]],
            id="a-header-hurts",
        ),
        pytest.param(deny(unless={"when": {"rego": "data.x.y"}}), ask(), [["effect"]], id="a-custom-rule"),
    ],
)
def test_exemptions(rule: dict[str, object], request_: Request, ways: list[list[str]]) -> None:
    policies = tree(app=[rule])
    facts = read(request_, "http", policies.headers_for("db"))
    found = exemptions(policies, "app-db", policies.policies[0].rules[0], facts)
    assert [[change.field for change in way] for way in found] == ways
