"""What is called covered never decides; what is called redundant can go; nothing that decides is called either."""

# ruff: noqa: E501  a table reads best with one case a line

import dataclasses
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from mesh.spiffe import SpiffePattern
from policyengine import model, reference
from policyengine.attributes import identity_of
from policyengine.canonical import PathPattern
from policyengine.ir import normalise
from policyengine.model import PolicySet
from policyengine.shadowing import Shadowing
from tests.examples import examples
from tests.policyengine.corners import ADMIN, CART, CLAIM_ADMIN, ROLE_ADMIN, TD, WEB, allow, deny, go_on, grant, tree
from tests.policyengine.strategies import policy_sets, requests

SHOP = f"{TD}/ns/shop/**"


def shadowing(policies: PolicySet) -> Shadowing:
    service = policies.service_for("db")
    assert service is not None
    return Shadowing(normalise(policies, service))


def covered(policies: PolicySet) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {
        f"{item.grant.tier}/{item.grant.rule}": (item.kind, tuple(f"{by.tier}/{by.rule}" for by in item.by))
        for item in shadowing(policies).covered()
    }


def get(*paths: str, **fields: object) -> dict[str, object]:
    return {"to": [{"methods": ["GET"], "paths": list(paths), **fields}]}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(app=[allow(), deny()]), {"app/r0": ("shadowed", ("app/r1",))}, id="allow-under-deny"),
        pytest.param(tree(app=[allow(), go_on()]), {"app/r0": ("shadowed", ("app/r1",))}, id="allow-under-pass"),
        pytest.param(tree(app=[go_on(), deny()]), {"app/r0": ("shadowed", ("app/r1",))}, id="pass-under-deny"),
        pytest.param(tree(guardrail=[deny()], app=[allow()]), {"app/r0": ("unreachable", ("guardrail/r0",))}, id="behind-a-deny"),
        pytest.param(tree(guardrail=[allow()], app=[deny()]), {}, id="deny-behind-an-allow-on-undeclared-ports"),
        pytest.param(tree(guardrail=[allow()], app=[deny(to=[{"ports": [8080]}])]), {"app/r0": ("unreachable", ("guardrail/r0",))}, id="behind-an-allow"),
        pytest.param(tree(guardrail=[allow(), go_on(**{"from": [CART]})], app=[allow(**{"from": [SHOP]})]), {}, id="behind-an-allow-that-a-pass-undoes-for-some"),
        pytest.param(tree(app=[allow(**{"from": [SHOP]}), allow(**{"from": [CART]})]), {"app/r1": ("redundant", ("app/r0",))}, id="narrower-caller"),
        pytest.param(tree(app=[allow(**{"from": [CART]}), allow(**{"from": [SHOP]})]), {"app/r0": ("redundant", ("app/r1",))}, id="narrower-caller-whatever-the-order"),
        pytest.param(tree(app=[allow(**get("/a/{x}")), allow(**get("/a/{x:int}"))]), {"app/r1": ("redundant", ("app/r0",))}, id="narrower-path"),
        pytest.param(tree(app=[allow(**get("/a")), allow(**get("/b")), allow(**get("/a", "/b"))]), {"app/r0": ("redundant", ("app/r2",)), "app/r1": ("redundant", ("app/r2",))}, id="one-goes-before-several-together"),
        pytest.param(tree(app=[allow(to=[{"methods": ["GET"]}]), allow(to=[{"methods": ["POST"]}]), allow(to=[{"methods": ["GET", "POST"], "paths": ["/a"]}])]), {"app/r2": ("redundant", ("app/r0", "app/r1"))}, id="several-together-by-method"),
        pytest.param(tree(app=[deny(**get("/a")), allow(**get("/b")), allow(**get("/a", "/b"))]), {"app/r1": ("redundant", ("app/r2",))}, id="a-part-under-a-deny"),
        pytest.param(tree(app=[allow(to=[{"methods": ["GET"]}]), allow()]), {"app/r0": ("redundant", ("app/r1",))}, id="methods-within-anything"),
        pytest.param(tree(app=[allow(to=[{"methods": ["GET"]}]), allow(**{"from": [CART]})]), {}, id="anything-is-more-than-methods"),
        pytest.param(tree(app=[deny(to=[{"paths": ["/**"]}]), allow()]), {"app/r1": ("shadowed", ("app/r0",))}, id="deny-of-every-path-holds-for-unknown-ones"),
        pytest.param(tree(app=[allow(to=[{"paths": ["/**"]}]), allow(**{"from": [CART]})]), {}, id="allow-of-every-path-does-not-hold-for-unknown-ones"),
        pytest.param(tree(app=[deny(unless={"from": [CART]}), allow(**{"from": [CART]})]), {}, id="spared-caller"),
        pytest.param(tree(app=[deny(unless={"from": [CART]}), allow(**{"from": [WEB]})]), {"app/r1": ("shadowed", ("app/r0",))}, id="not-the-spared-caller"),
        pytest.param(tree(app=[deny(unless={"when": CLAIM_ADMIN}), allow(**{"from": [CART]})]), {}, id="conditional-deny"),
        pytest.param(tree(app=[allow(id="a", when=ROLE_ADMIN), allow(id="b", when=ROLE_ADMIN, **get("/a"))]), {"app/b": ("redundant", ("app/a",))}, id="same-condition"),
        pytest.param(tree(app=[deny(id="a", when=ROLE_ADMIN), allow(id="b", when=ROLE_ADMIN)]), {"app/b": ("shadowed", ("app/a",))}, id="deny-on-the-same-condition"),
        pytest.param(tree(app=[allow(id="a", when=ROLE_ADMIN), allow(id="b", when=CLAIM_ADMIN)]), {}, id="other-condition"),
        pytest.param(tree(guardrail=[allow(when=ROLE_ADMIN)], app=[deny(when=ROLE_ADMIN, to=[{"ports": [8080]}])]), {}, id="unknown-keeps-an-allow-from-matching"),
        pytest.param(tree(app=[allow(), allow(id="z", **{"from": [CART]})], exceptions=[grant("2099-01-01T00:00:00Z")]), {"app/exception": ("redundant", ("app/r0",)), "app/z": ("redundant", ("app/r0",))}, id="exception-within-an-allow"),
        pytest.param(tree(app=[allow(to=[{"hosts": ["*.a.test"]}]), allow(to=[{"hosts": ["x.a.test"]}])]), {"app/r1": ("redundant", ("app/r0",))}, id="narrower-host"),
        pytest.param(tree(app=[allow(to=[{"ports": [8080]}]), allow(to=[{"ports": [81]}]), allow(id="z")], ports=[(8080, "http"), (81, "tcp")]), {"app/r0": ("redundant", ("app/z",)), "app/r1": ("redundant", ("app/z",))}, id="ports-of-one-rule"),
        pytest.param(tree(app=[allow(id="a"), allow(id="b"), allow(id="c")]), {"app/b": ("redundant", ("app/a",)), "app/c": ("redundant", ("app/a",))}, id="of-equals-the-first-stays"),
    ],
)  # fmt: skip
def test_covered(policies: PolicySet, expected: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    assert covered(policies) == expected


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(tree(guardrail=[deny(to=[{"paths": ["/admin/**"]}])], app=[allow(**{"from": [CART]})]), [("r0", "guardrail-db", f"{CART} /admin/**")], id="wide-allow-under-a-guardrail"),
        pytest.param(tree(guardrail=[deny(to=[{"paths": ["/admin/**"]}])], app=[allow(**get("/orders", "/admin/x"))]), [("r0", "guardrail-db", "any GET /admin/x")], id="one-path-under-a-guardrail"),
        pytest.param(tree(guardrail=[deny(to=[{"paths": ["/admin/**"]}])], app=[allow(**get("/orders"))]), [], id="no-common-path"),
        pytest.param(tree(guardrail=[deny(**{"from": [CART]})], app=[allow(**{"from": [SHOP]}, **get("/orders"))]), [("r0", "guardrail-db", f"{CART} GET /orders")], id="caller-inside"),
        pytest.param(tree(guardrail=[deny(**{"from": [WEB]})], app=[allow(**{"from": [CART]})]), [], id="other-caller"),
        pytest.param(tree(guardrail=[deny(unless={"when": CLAIM_ADMIN}, to=[{"paths": ["/admin/**"]}])], app=[allow()]), [], id="a-guardrail-on-a-condition-is-a-layer"),
        pytest.param(tree(guardrail=[deny(unless={"from": [CART]})], app=[allow(**{"from": [CART, WEB]})]), [("r0", "guardrail-db", WEB)], id="not-for-whom-it-spares"),
        pytest.param(tree(app=[allow(**{"from": [CART]})], baseline=[deny()]), [], id="a-baseline-that-denies-everything-is-there-to-be-overruled"),
        pytest.param(tree(app=[allow(**{"from": [CART]})], baseline=[deny(to=[{"paths": ["/admin/**"]}])]), [("r0", "app-db", f"{CART} /admin/**")], id="a-baseline-deny-of-something"),
        pytest.param(tree(guardrail=[allow(**{"from": [ADMIN]})], app=[deny(to=[{"methods": ["DELETE"]}])]), [("r0", "guardrail-db", f"{ADMIN} DELETE")], id="deny-under-a-guardrail-allow"),
        pytest.param(tree(guardrail=[allow(**{"from": [ADMIN]}), go_on(**{"from": [ADMIN]})], app=[deny()]), [], id="an-allow-that-is-passed-over"),
        pytest.param(tree(guardrail=[deny(to=[{"methods": ["DELETE"]}])], app=[allow(to=[{"methods": ["GET"]}])]), [], id="no-common-method"),
        pytest.param(tree(guardrail=[deny(to=[{"hosts": ["a.test"]}])], app=[allow(to=[{"hosts": ["b.test"]}])]), [], id="no-common-host"),
        pytest.param(tree(guardrail=[deny(to=[{"ports": [81]}])], app=[allow(to=[{"ports": [8080]}])], ports=[(8080, "http"), (81, "http")]), [], id="no-common-port"),
    ],
)  # fmt: skip
def test_conflicts(policies: PolicySet, expected: list[tuple[str, str, str]]) -> None:
    found = shadowing(policies)
    dead = [item.grant for item in found.covered()]
    assert [(item.grant.rule, item.by.policy, item.part) for item in found.conflicts(dead)] == expected


def is_outside(policies: PolicySet, request: Request) -> bool:
    """Callers without an identity and ambiguous requests are not spoken of."""
    code = reference.decide(policies, request, snapshot="").code
    return code in {"LM2303", "LM2304"} or "source" in request.unknown or identity_of(request.source) is None


# INVARIANT: what is called covered never decides, and without it every decision is the same.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets, st.lists(requests, min_size=6, max_size=6))
def test_a_covered_rule_can_go(policies: PolicySet, asked: list[Request]) -> None:
    found = [item for service in policies.services for item in Shadowing(normalise(policies, service)).covered()]
    dead = {(item.grant.policy, item.grant.rule) for item in found}
    kept = tuple(
        dataclasses.replace(policy, rules=rules)
        for policy in policies.policies
        if (rules := tuple(rule for rule in policy.rules if (policy.name, rule.id) not in dead))
    )
    without = dataclasses.replace(
        policies,
        policies=kept,
        exceptions=tuple(item for item in policies.exceptions if (item.name, model.EXCEPTION_RULE) not in dead),
    )
    never = {(item.grant.policy, item.grant.rule) for item in found if item.kind != "redundant"}
    for request in asked:
        before = reference.decide(policies, request, snapshot="")
        if is_outside(policies, request):
            continue
        assert (before.policy, before.rule) not in never
        after = reference.decide(without, request, snapshot="")
        assert (before.effect, before.policy_effect) == (after.effect, after.policy_effect)


def many(count: int, *, same_caller: bool) -> PolicySet:
    service = model.Service(
        name="db",
        owner="o",
        identities=(SpiffePattern.parse(f"{TD}/ns/shop/sa/db"),),
        ports=(model.Port(port=8080, protocol="http"),),
    )
    rules = tuple(
        model.Rule(
            id=f"r{place}",
            effect=Effect.ALLOW,
            from_=(model.Principal.parse("any" if same_caller else f"{TD}/ns/n{place % 97}/sa/c-{place // 10}"),),
            to=(model.Operation(methods=("GET",), paths=(PathPattern.parse(f"/t/{place}/items/{{id:int}}"),)),),
        )
        for place in range(count)
    )
    policy = model.Policy(name="p", owner="o", service="db", tier="app", rules=rules)
    return PolicySet(services=(service,), policies=(policy,))


@pytest.mark.parametrize("same_caller", [False, True])
def test_ten_times_the_rules_take_about_ten_times_as_many_calls(same_caller: bool) -> None:
    def cost(count: int) -> int:
        policies, calls = many(count, same_caller=same_caller), 0

        def note(_: object, event: str, __: object) -> None:
            nonlocal calls
            calls += event in {"call", "c_call"}

        sys.setprofile(note)
        try:
            found = shadowing(policies)
            covered, conflicts = found.covered(), found.conflicts(())
        finally:
            sys.setprofile(None)
        assert (covered, conflicts) == ([], [])
        return calls

    assert cost(2000) < 15 * cost(200)
