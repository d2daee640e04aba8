"""The JSON of a policy set has one order and is read strictly, without the libraries of the rims."""

import copy
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.problems import Invalid
from mesh.request import Request
from policyengine import reference
from policyengine.consistency import check
from policyengine.decide import Index
from policyengine.model import PolicySet, policy_set_from_json
from policyengine.wire import Kept, read_policy_set
from tests.examples import examples
from tests.policyengine.corners import CLAIM_ADMIN, FUTURE, ROLE_ADMIN, TD, allow, deny, grant, tree
from tests.policyengine.setedits import histories
from tests.policyengine.strategies import policy_sets, requests

HOURS = {"hours": {"tz": "UTC", "from": "08:00", "to": "18:00:30"}, "peer_ip": ["10.0.0.0/8"], "rego": "data.shop.x"}


def whole() -> dict[str, Any]:
    found = tree(
        app=[
            allow(to=[{"methods": ["GET"], "hosts": ["*.corp.test"], "paths": ["/a/{x:int}/**"]}], when=CLAIM_ADMIN),
            deny(unless={"from": ["group:g"], "when": ROLE_ADMIN}, evidence={"seen": 3}, when=HOURS),
        ],
        groups={"g": [f"{TD}/**"]},
        exceptions=[grant(FUTURE)],
    ).to_json()
    found["services"][0]["path_case"] = "insensitive"
    found["services"][0]["ports"][0]["websocket"] = True
    found["invariants"] = [{"name": "i", "owner": "", "forbid": {"from": ["any"], "service": "db"}}]
    return found


def test_round_trip_keeps_everything() -> None:
    assert policy_set_from_json(whole()).to_json() == whole()


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_sets)
def test_what_is_consistent_round_trips(policies: PolicySet) -> None:
    written = policies.to_json()
    written["groups"] = [group for group in written["groups"] if group["members"]]  # type: ignore[attr-defined, index]  # plain JSON
    if any(finding.code != "LM2040" for finding in check(policies)):
        return
    if refusal(written) == ("LM2001", "LM2033"):
        return  # the group without members was taken out
    assert policy_set_from_json(written).to_json() == written


def refusal(obj: object) -> tuple[str, object] | None:
    """Why an object is refused; anything but Invalid is a bug and goes on."""
    try:
        policy_set_from_json(obj)
    except Invalid as err:
        return err.code, err.facts["finding"]
    return None


def test_order_of_objects_does_not_change_the_json() -> None:
    turned = whole()
    for kind in ("services", "policies", "groups"):
        turned[kind].reverse()
    turned["policies"][0]["rules"].reverse()
    assert policy_set_from_json(turned).to_json() == whole()


def spoil(*path: object, value: object) -> dict[str, Any]:
    found = copy.deepcopy(whole())
    target: Any = found
    for part in path[:-1]:
        target = target[part]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("obj", "finding"),
    [
        pytest.param([], "LM2004", id="no-object"),
        pytest.param({}, "LM2003", id="empty"),
        pytest.param(spoil("schema", value=2), "LM2009", id="schema"),
        pytest.param(spoil("schema", value=True), "LM2009", id="schema-bool"),
        pytest.param(spoil("extra", value=1), "LM2002", id="unknown-kind"),
        pytest.param(spoil("groups", value=...), "LM2003", id="missing-kind"),
        pytest.param(spoil("policies", 0, "rules", 0, "form", value=1), "LM2002", id="unknown-field"),
        pytest.param(spoil("policies", 0, "rules", 0, "from", value=[]), "LM2005", id="empty-from"),
        pytest.param(spoil("policies", 0, "rules", 0, "to", value=[]), "LM2005", id="empty-to"),
        pytest.param(spoil("policies", 0, "rules", 0, "to", 0, "paths", value=[]), "LM2005", id="empty-paths"),
        pytest.param(spoil("policies", 0, "rules", 0, "to", 0, value={}), "LM2019", id="empty-operation"),
        pytest.param(spoil("policies", 0, "rules", value=[]), "LM2005", id="empty-rules"),
        pytest.param(spoil("policies", 0, "service", value="x"), "LM2032", id="unknown-service"),
        pytest.param(spoil("groups", value=[]), "LM2033", id="unknown-group"),
        pytest.param(spoil("groups", 0, "members", value=[]), "LM2005", id="empty-group"),
        pytest.param(spoil("services", 0, "ports", 0, "port", value="80"), "LM2010", id="port-as-text"),
        pytest.param(spoil("services", 0, "name", value=5), "LM2004", id="name"),
        pytest.param(spoil("services", 0, value=5), "LM2003", id="no-service"),
        pytest.param(spoil("services", value={}), "LM2004", id="no-list"),
        pytest.param(spoil("services", 0, "identities", value=[f"{TD}/ns/shop/**"]), "LM2034", id="overlap"),
    ],
)
def test_is_refused(obj: object, finding: str) -> None:
    assert refusal(obj) == ("LM2001", finding)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["services", "policies", "groups", "invariants", "exceptions"]), _json)
def test_nothing_but_invalid_is_raised(kind: str, value: object) -> None:
    for obj in (value, spoil(kind, value=value), spoil(kind, value=[value]), spoil(kind, 0, "rules", value=value)):
        found = refusal(obj)
        assert found is None or found[0] == "LM2001"


def test_a_sidecar_imports_no_yaml_pydantic_or_grpc() -> None:
    code = (
        "import sys, policyengine.decide, policyengine.model, policyengine.wire, policyengine.explain;"
        "print([name for name in ('yaml', 'pydantic', 'grpc', 'google') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- reading again


def test_what_is_written_the_same_is_the_same_object_and_what_is_not_is_read() -> None:
    kept, written = Kept(), tree(app=[allow()], baseline=[deny()], groups={"g": [f"{TD}/**"]}).to_json()
    before = read_policy_set(copy.deepcopy(written), kept)
    written["policies"][0]["rules"][0]["id"] = "other"  # type: ignore[index]  # plain JSON
    after = read_policy_set(written, kept)
    assert after.policies[0] is not before.policies[0]
    assert after.policies[0].rules[0].id == "other"
    assert after.policies[1] is before.policies[1]
    assert after.services[0] is before.services[0]
    assert after.groups[0] is before.groups[0]


# to Python they are equal, to a policy they are not
@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (True, 1)])
def test_equal_to_python_is_not_the_same(one: object, other: object) -> None:
    kept = Kept()
    for value in (one, other):
        claims = {"claims": {"issuer": "https://idp.test", "n": [value]}}
        found = read_policy_set(tree(app=[allow(when=claims)]).to_json(), kept)
        when = found.policies[0].rules[0].when
        assert when is not None
        assert when.claims is not None
        assert [type(item) for item in when.claims.values[0][1]] == [type(value)]


def test_what_was_refused_is_refused_again() -> None:
    kept, written = Kept(), whole()
    read_policy_set(copy.deepcopy(written), kept)
    written["policies"][0]["rules"][0]["from"] = []
    for _ in range(2):
        with pytest.raises(Invalid):
            read_policy_set(copy.deepcopy(written), kept)


def test_what_is_gone_is_forgotten() -> None:
    kept = Kept()
    for place in range(20):
        read_policy_set(tree(app=[allow(id=f"r{place}")]).to_json(), kept)
    assert len(kept._now) + len(kept._before) <= 6


# INVARIANT: a reader that keeps what it read reads as one that keeps nothing, whatever was changed in between.
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(policy_sets, min_size=2, max_size=4), st.data())
def test_reading_again_equals_reading_anew(history: list[PolicySet], data: st.DataObject) -> None:
    kept, current = Kept(), history[0].to_json()
    for other in history:
        taken = data.draw(st.sets(st.sampled_from(("services", "policies", "groups", "exceptions"))))
        current = {**current, **{kind: other.to_json()[kind] for kind in taken}}
        try:
            expected: object = policy_set_from_json(copy.deepcopy(current))
        except Invalid as err:
            expected = (err.code, err.facts)
        try:
            found: object = read_policy_set(copy.deepcopy(current), kept)
        except Invalid as err:
            found = (err.code, err.facts)
        assert found == expected


# INVARIANT: the same, edit by edit, rule by rule; and what was read is what an index is compiled from.
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), requests)
def test_reading_rule_by_rule_equals_reading_anew(history: list[PolicySet], asked: Request) -> None:
    kept, index = Kept(), None
    for policies in history:
        written = policies.to_json()
        try:
            expected = policy_set_from_json(copy.deepcopy(written))
        except Invalid as err:
            with pytest.raises(Invalid) as refused:
                read_policy_set(copy.deepcopy(written), kept)
            assert (refused.value.code, refused.value.facts) == (err.code, err.facts)
            continue
        found = read_policy_set(copy.deepcopy(written), kept)
        assert found == expected
        index = Index(found, "s", index)
        assert index.decide(asked) == reference.decide(expected, asked, snapshot="s")


LONG = {"effect": "allow", "from": ["any"]}


def long(**others: object) -> dict[str, Any]:
    """A policy of 200 rules, some of them others."""
    rules = [others.get(f"r{place:03}", {"id": f"r{place:03}", **LONG}) for place in range(200)]
    written: dict[str, Any] = tree(app=[allow()]).to_json()
    written["policies"][0]["rules"] = rules
    return written


def test_of_a_long_policy_the_rules_that_did_not_change_are_the_same_objects() -> None:
    kept = Kept()
    before = read_policy_set(long(), kept).policies[0].rules
    after = read_policy_set(long(r077={"id": "r077", "effect": "deny", "from": ["any"]}), kept).policies[0].rules
    assert [one.id for one, other in zip(after, before, strict=True) if one is not other] == ["r077"]


SPOILT = [
    pytest.param({"id": "r003", **LONG}, "LM2031", id="an-id-that-stands-far-away-too"),
    pytest.param({"id": "r100", "effect": "allow", "from": []}, "LM2005", id="an-empty-list"),
    pytest.param({"id": "r100", **LONG, "colour": "red"}, "LM2002", id="an-unknown-field"),
    pytest.param({"id": ["r100"], **LONG}, "LM2004", id="an-id-that-is-no-text"),
    pytest.param("r100", "LM2004", id="no-mapping"),
]


@pytest.mark.parametrize(("rule", "finding"), SPOILT)
def test_a_rule_that_is_refused_in_a_long_policy_is_refused_as_it_is_at_first(rule: object, finding: str) -> None:
    kept = Kept()
    read_policy_set(long(), kept)
    spoilt = long(r100=rule)
    refusals = [refusal_by(kept, spoilt), refusal_by(kept, spoilt), refusal_by(Kept(), spoilt)]
    assert {code for _, code in refusals} == {finding}
    assert len(set(refusals)) == 1
    assert len(read_policy_set(long(), kept).policies[0].rules) == 200


def refusal_by(kept: Kept, written: object) -> tuple[object, object]:
    with pytest.raises(Invalid) as refused:
        read_policy_set(copy.deepcopy(written), kept)
    return refused.value.facts["where"], refused.value.facts["finding"]
