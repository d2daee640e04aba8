"""Custom rules beside a workload: an engine only where the own service names one, kept over releases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from enforcer.native.custom import CustomEngines
from enforcer.native.judge import Judge, Rules
from mesh.problems import Invalid
from policyengine.model import PolicySet, RegoModule
from policyengine.wire import read_policy_set
from tests.enforcer.native.harness import ALLOW_WEB, DB, WEB, policies
from tests.enforcer.native.test_judge import ask, head

RULE: dict[str, object] = {"id": "custom", "effect": "allow", "from": [WEB], "when": {"rego": "data.shop.extra"}}
SOURCE = 'package shop\n\ndefault extra := false\n\nextra if input.headers["x-note"].value == "yes"\n'


@pytest.fixture
def engines() -> Iterator[CustomEngines]:
    found = CustomEngines(deadline_s=60.0, load_deadline_s=60.0)
    yield found
    found.close()


def released(source: str = SOURCE, *rules: dict[str, object]) -> PolicySet:
    found = read_policy_set(policies(*(rules or (RULE,))))
    return dataclasses.replace(found, rego=(RegoModule("shop.rego", source),))


def decides(found: PolicySet, *fields: tuple[bytes, bytes]) -> bool:
    return ask(Judge(DB, Rules.of("h", found), None), head("/orders", *fields)).decision.is_allowed


def test_a_custom_rule_sees_all_headers_and_decides(engines: CustomEngines) -> None:
    bound = engines.bind(released(), DB)
    assert decides(bound, (b"X-Note", b"yes"))
    assert not decides(bound, (b"X-Note", b"no"))
    assert not decides(bound)


def test_nothing_is_started_where_no_rule_of_the_own_service_names_one(engines: CustomEngines) -> None:
    assert engines.bind(released(SOURCE, ALLOW_WEB), DB).custom is None
    assert engines.bind(released(), WEB).custom is None
    assert engines._engines == {}


def test_equal_rules_keep_their_engine_and_others_end_it(engines: CustomEngines) -> None:
    first = engines.bind(released(), DB).custom
    engines.settle()
    assert engines.bind(released(SOURCE, RULE, ALLOW_WEB), DB).custom == first
    engines.settle()
    assert len(engines._engines) == 1
    engines.bind(released(SOURCE + "\nother := 1\n"), DB)
    engines.settle()
    assert len(engines._engines) == 1
    assert engines.bind(released(), DB).custom != first


def test_rules_that_may_not_run_are_told_of_and_unknown(engines: CustomEngines) -> None:
    bad = released("package shop\n\nextra if opa.runtime().env.HOME\n")
    with pytest.raises(Invalid, match="LM2602"):
        engines.bind(bad, DB)
    assert not decides(bad, (b"x-note", b"yes"))
