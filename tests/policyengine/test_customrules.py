"""Custom rules: true and false as they say so, everything else unknown; what they may not be is refused."""

import dataclasses
import os
import pathlib
import signal
import threading

import pytest

from mesh.problems import Invalid, Severity
from mesh.request import Effect
from policyengine import reference
from policyengine.analysis import plan
from policyengine.customrules import CustomRules, check_custom_rules, read_checked, rules_of, with_custom_rules
from policyengine.decide import Index
from policyengine.loader import load_tree
from policyengine.model import PolicySet, RegoModule, policy_set_from_json
from policyengine.ownership import slices
from tests.policyengine.corners import NOW, allow, ask, deny, token, tree

GOOD = """package shop

default extra := false

extra if {
	input.path[0] == "orders"
	"dev" in input.claims.roles
}

maybe if input.method == "GET"

number := 7

two := 1 if input.method == "GET"
two := 2 if input.port == 8080

slow if {
	some i in numbers
	some j in numbers
	some k in numbers
	some l in numbers
	i + j + k + l == 0
}

numbers := [i | some i in input.token.many]
"""
DEV = token(roles=["dev"])


def with_rule(name: str, source: str = GOOD, **rules: object) -> PolicySet:
    plain = tree(app=[allow(when={"rego": name})], **rules)  # type: ignore[arg-type]  # a test's shorthand
    return dataclasses.replace(plain, rego=(RegoModule("shop.rego", source),))


def decided(policies: PolicySet, **fields: object) -> str:
    with with_custom_rules(policies, deadline_s=60.0) as found:
        request = ask(**fields)
        one, other = Index(found, "s").decide(request), reference.decide(found, request, snapshot="s")
    assert one == other
    return str(one.effect)


def test_true_allows_and_false_does_not() -> None:
    policies = with_rule("data.shop.extra")
    assert decided(policies, claims=DEV) == "allow"
    assert decided(policies, claims=token(roles=["ops"])) == "deny"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        pytest.param("data.shop.maybe", {"method": "POST"}, id="undefined"),
        pytest.param("data.shop.number", {}, id="no-boolean"),
        pytest.param("data.shop.two", {}, id="conflict"),
        pytest.param("data.other.rule", {}, id="no-such-package"),
    ],
)
def test_everything_else_is_unknown_so_allows_fail_and_denies_hold(name: str, fields: dict[str, object]) -> None:
    assert decided(with_rule(name), **fields) == "deny"
    denying = tree(guardrail=[deny(when={"rego": name})], app=[allow()])
    assert decided(dataclasses.replace(denying, rego=(RegoModule("shop.rego", GOOD),)), **fields) == "deny"


def test_a_rule_that_takes_too_long_is_unknown_and_the_next_request_does_not_wait() -> None:
    policies, slow = with_rule("data.shop.slow"), ask(claims=token(many=list(range(1, 500))))
    with CustomRules(policies, deadline_s=0.2) as rules:
        rules.load()
        assert rules.holds("data.shop.slow", slow) is None
        # it was killed, and nobody waits for its successor: the question is not even asked
        asked = rules.failures
        assert asked >= 1
        assert rules.holds("data.shop.slow", ask()) is None
        assert rules.failures == asked


def test_one_request_is_asked_about_a_rule_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with CustomRules(with_rule("data.shop.extra"), deadline_s=60.0) as rules:
        rules.load()
        request = ask(claims=DEV)
        assert rules.holds("data.shop.extra", request) is True
        assert rules._engine is not None
        monkeypatch.setattr(rules._engine, "ask", lambda *_: pytest.fail("asked again"))
        assert rules.holds("data.shop.extra", request) is True


def test_without_an_evaluator_rules_are_unknown() -> None:
    policies = with_rule("data.shop.extra")
    assert Index(policies, "s").decide(ask(claims=DEV)).effect is Effect.DENY
    assert rules_of(policies) == ("data.shop.extra",)
    assert rules_of(with_rule("data.other.x")) == ()


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('package shop\nextra if http.send({"method": "get", "url": "http://x"})', id="network"),
        pytest.param("package shop\nextra if time.now_ns() > 0", id="clock"),
        pytest.param("package shop\nextra if extra", id="recursion"),
        pytest.param("package shop\nextra if {", id="syntax"),
        pytest.param("package shop\nother := 1", id="no-such-rule"),
    ],
)
def test_what_may_not_run_is_refused(source: str) -> None:
    with pytest.raises(Invalid, match="LM2602"):
        check_custom_rules(with_rule("data.shop.extra", source))
    with pytest.raises(Invalid, match="LM2602"):
        read_checked(with_rule("data.shop.extra", source).to_json())


def test_a_snapshot_carries_the_modules() -> None:
    policies = with_rule("data.shop.extra")
    assert policy_set_from_json(policies.to_json()) == policies
    assert "rego" not in tree().to_json()


def test_a_snapshot_with_a_module_that_says_with_is_refused() -> None:
    bad = with_rule("data.shop.extra", "package shop\nextra if y with input as {}\ny := 1")
    with pytest.raises(Invalid, match="LM2001"):
        policy_set_from_json(bad.to_json())


def test_a_changed_module_touches_the_services_whose_rules_name_one() -> None:
    one, other = with_rule("data.shop.extra"), with_rule("data.shop.extra", GOOD + "\nx := 1\n")
    assert slices(one)["db"] != slices(other)["db"]
    assert slices(one)["web"] == slices(other)["web"]


def test_a_plan_shows_a_custom_rule_of_other_modules_as_another_rule() -> None:
    one, other = with_rule("data.shop.extra"), with_rule("data.shop.extra", GOOD + "\nx := 1\n")
    found = plan(one, other, (), NOW)
    assert found.is_complete
    assert {"rego", "rego_before"} <= {key for row in found.newly_allowed for key in (*row.when, *row.when["not"][0])}  # type: ignore[index]
    assert plan(one, one, (), NOW).is_empty


def test_a_tree_has_its_modules_and_their_findings(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "shop.rego").write_text("package shop\n\nextra if data.inventory\n", "utf-8")
    (tmp_path / "p.yaml").write_text(
        """apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: data}
spec: {identities: ["spiffe://corp.test/db"], ports: [{port: 80, protocol: http}]}
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: data}
spec:
  service: db
  tier: app
  rules:
  - {id: a, effect: allow, from: [any], when: {rego: data.shop.extra}}
  - {id: b, effect: allow, from: [any], when: {rego: data.other.extra}}
  - {id: c, effect: allow, from: [any], when: {rego: shop}}
""",
        "utf-8",
    )
    policies, findings = load_tree(tmp_path)
    assert [module.path for module in policies.rego] == ["rules/shop.rego"]
    found = {(item.code, item.span.line if item.span else 0) for item in findings if item.severity is not Severity.INFO}
    assert found == {("LM2600", 3), ("LM2040", 14), ("LM2601", 15)}


def test_an_engine_that_dies_mid_query_denies_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.rego._FIRST_PAUSE_S", 0.0)
    policies = with_rule("data.shop.slow")
    pids: list[int] = []
    with CustomRules(policies, deadline_s=60.0) as rules:
        rules.load()
        engine = rules._engine
        assert engine is not None
        index = Index(dataclasses.replace(policies, custom=rules.holds), "s")
        for turn in range(1, 4):
            assert engine._process is not None
            pids.append(engine._process.pid)

            def abort_when_busy(pid: int = pids[-1]) -> None:
                spent = busy(pid)
                while busy(pid) < spent + 5:  # it works on the question
                    os.sched_yield()
                os.kill(pid, signal.SIGABRT)

            killer = threading.Thread(target=abort_when_busy)
            killer.start()
            found = index.decide(ask(claims=token(many=list(range(1, 500)))))
            killer.join()
            # an unknown rule allows nothing; nothing else of the decision point fails
            assert (found.effect, found.code, index.errors) == (Effect.DENY, "LM2302", 0)
            assert rules.failures == turn
            rules.load()
    assert len(set(pids)) == 3
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)


def busy(pid: int) -> int:
    """How many clock ticks a process has computed for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return int(fields[11])
