import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import diagram as diagrams
from policyengine import reference
from policyengine.atoms import TooLarge
from policyengine.canonical import PathPattern
from policyengine.diagram import Leaf, Node, build, leaves
from policyengine.lookup import leaf_of
from policyengine.model import Conditions, Operation, PolicySet
from tests.examples import examples
from tests.policyengine import strategies
from tests.policyengine.strategies import NOW, TD

RULES = st.sampled_from([None, lambda *_: True, lambda *_: False, lambda *_: None])


def paths(*texts: str) -> tuple[Operation, ...]:
    return (Operation(paths=tuple(PathPattern.parse(text) for text in texts)),)


@settings(max_examples=examples(60), deadline=None)
@given(strategies.policy_sets, st.lists(strategies.requests, min_size=1, max_size=12), RULES)
def test_a_leaf_says_what_the_reference_evaluator_says(policies: PolicySet, asked: list[Request], custom: Any) -> None:
    found = build("db", [policies], NOW)
    answering = dataclasses.replace(policies, custom=custom)
    for request in asked:
        leaf = leaf_of(found, dataclasses.replace(request, service="db"), custom)
        if leaf is None:
            continue
        decision = reference.decide(answering, dataclasses.replace(request, service="db"), snapshot="")
        (verdict,) = leaf.verdicts
        assert (verdict.effect, verdict.policy_effect) == (decision.effect, decision.policy_effect)
        named = ("", "") if verdict.grant is None else (verdict.grant.policy, verdict.grant.rule)
        assert named == (decision.policy, decision.rule)


@settings(max_examples=examples(60), deadline=None)
@given(strategies.policy_sets, strategies.requests, RULES)
def test_speaks_of_every_request_that_rules_decide(policies: PolicySet, request: Request, custom: Any) -> None:
    asked = dataclasses.replace(request, service="db")
    decision = reference.decide(dataclasses.replace(policies, custom=custom), asked, snapshot="")
    if decision.code in {reference.AMBIGUOUS, reference.NO_IDENTITY, reference.UNDECLARED_PORT}:
        return
    usual = asked.method in {"GET", "POST", "get"} and asked.path is not None and asked.protocol != "tcp"
    known = not asked.unknown & {"method", "path", "source", "peer_ip"} and asked.peer_ip not in {None, "x"}
    # what ended before the moment it was built for, a diagram no longer tells apart
    known &= asked.time is None or asked.time >= NOW
    iss = None if asked.claims is None else asked.claims.get("iss")
    if (
        usual
        and known
        and (iss is None or isinstance(iss, str))
        and reference.read(asked, "http", policies.headers_for("db")).source
    ):
        assert asked.port not in {8080, 9000} or leaf_of(build("db", [policies], NOW), asked, custom) is not None


def version(make: Any, *rules: Any) -> PolicySet:
    make_service, make_policy = make
    return PolicySet(services=(make_service("db"),), policies=(make_policy("db", *rules),) if rules else ())


@pytest.fixture
def make(make_service: Any, make_policy: Any) -> Any:
    return make_service, make_policy


def request(caller: str, path: str = "/a") -> Request:
    return Request(
        service="db", port=8080, protocol="http", source=f"{TD}/ns/shop/sa/{caller}", method="GET", path=path, time=NOW
    )


def test_has_one_leaf_where_nothing_is_said(make: Any) -> None:
    found = build("db", [version(make)], NOW)
    ((_, _, tree),) = found.trees()
    assert isinstance(tree, Leaf)
    assert tree.verdicts[0].grant is None


def test_equal_parts_are_one_node(make: Any, make_rule: Any) -> None:
    rules = [make_rule(f"r{method}{path}", "cart", to=(Operation(methods=(method,), paths=paths(path)[0].paths),))
             for method in ("GET", "PUT") for path in ("/a", "/b")]  # fmt: skip
    same = [dataclasses.replace(rule, id="r") for rule in rules]
    trees = [tree for region, _, tree in build("db", [version(make, *same)], NOW).trees() if region.spoken]
    (root,) = trees
    assert isinstance(root, Node)
    assert len(root.arms) == 3
    assert len({id(leaf) for leaf in leaves(root)}) == len(list(leaves(root)))


def test_two_versions_share_their_classes(make: Any, make_rule: Any) -> None:
    old, new = version(make, make_rule("r", "cart")), version(make, make_rule("r", "cart", to=paths("/a/**")))
    found = build("db", [old, new], NOW)
    inside, outside = leaf_of(found, request("cart", "/a/b")), leaf_of(found, request("cart", "/b"))
    assert inside is not None
    assert outside is not None
    assert [verdict.effect for verdict in inside.verdicts] == [Effect.ALLOW, Effect.ALLOW]
    assert [verdict.effect for verdict in outside.verdicts] == [Effect.ALLOW, Effect.DENY]


def test_a_service_that_a_version_lacks_denies_there(make: Any, make_rule: Any) -> None:
    leaf = leaf_of(build("db", [PolicySet(), version(make, make_rule("r", "cart"))], NOW), request("cart"))
    assert leaf is not None
    assert [verdict.effect for verdict in leaf.verdicts] == [Effect.DENY, Effect.ALLOW]


def test_an_open_pass_comes_before_the_allow_of_its_tier(make: Any, make_rule: Any) -> None:
    passing = make_rule("p", "cart", effect=Effect.PASS, when=Conditions(headers=(("x", ("a",)),)))
    deny = make_rule("d", "cart", effect=Effect.DENY)
    make_service, make_policy = make
    tiers = (
        dataclasses.replace(make_policy("db", make_rule("r", "cart"), passing), name="g", tier="guardrail"),
        make_policy("db", deny),
    )
    found = build("db", [PolicySet(services=(make_service("db"),), policies=tiers)], NOW)
    plain = leaf_of(found, request("cart"))
    passed = leaf_of(found, dataclasses.replace(request("cart"), headers=(("x", "a"),)))
    assert plain is not None
    assert passed is not None
    assert (plain.verdicts[0].effect, passed.verdicts[0].effect) == (Effect.ALLOW, Effect.DENY)


def test_does_not_grow_with_conditions_that_do_not_meet(make: Any, make_rule: Any) -> None:
    rules = [
        make_rule(f"r{index}", "cart", to=paths(f"/p{index}"), when=Conditions(headers=((f"x-{index}", ("a",)),)))
        for index in range(200)
    ]
    found = build("db", [version(make, *rules)], NOW)
    assert sum(1 for _, _, tree in found.trees() for _ in leaves(tree)) == 200 + 1 + 1


def test_says_when_it_would_be_too_large(make: Any, make_rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams, "MAX_STEPS", 10)
    rules = [make_rule(f"r{index}", "cart", to=paths(f"/p{index}")) for index in range(20)]
    with pytest.raises(TooLarge):
        list(build("db", [version(make, *rules)], NOW).trees())
