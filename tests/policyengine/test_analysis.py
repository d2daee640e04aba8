import dataclasses
import datetime as dt
import itertools
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Mode, Request
from policyengine import reference
from policyengine import rows as rowing
from policyengine.analysis import plan
from policyengine.canonical import HostPattern
from policyengine.diagram import Builder, build
from policyengine.lookup import leaf_of
from policyengine.model import (
    Conditions,
    ExceptionGrant,
    Group,
    Invariant,
    Operation,
    Policy,
    PolicySet,
    Port,
    Principal,
    RegoModule,
    Unless,
)
from tests.examples import examples
from tests.policyengine import strategies
from tests.policyengine.plans import (
    ANSWERS,
    ID,
    LATER,
    NOW,
    OPERATIONS,
    RULES,
    SETS,
    TIERS,
    WORDS,
    own_paths,
    paths,
    policies,
    requests,
    rule,
    service,
    short,
    to,
)
from tests.policyengine.rowwords import speaks_of


def test_nothing_changes_between_equal_versions() -> None:
    found = plan(policies(rule("cart")), policies(rule("cart")), [], NOW)
    assert found.is_empty
    assert found.is_complete
    assert not found.has_findings


def test_a_new_caller_is_newly_allowed() -> None:
    found = plan(policies(rule("cart")), policies(rule("cart"), rule("batch")), [], NOW)
    assert short(found.newly_allowed) == [("batch", 8080, ("*",), ("/**",), {})]
    assert found.newly_allowed[0].because == ("p/r1",)
    assert found.newly_denied == ()
    assert found.is_complete


def test_a_removed_rule_is_newly_denied() -> None:
    found = plan(policies(rule("cart")), policies(), [], NOW)
    assert short(found.newly_denied) == [("cart", 8080, ("*",), ("/**",), {})]
    assert found.newly_denied[0].because == ("p/r0",)


def test_everything_allowed_is_new_without_an_old_version() -> None:
    found = plan(None, policies(rule("cart", to=to(methods=("GET",), paths=paths("/o/{id}")))), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("GET",), ("/o/{id}",), {})]


def test_a_rule_that_another_covers_changes_nothing() -> None:
    wide, narrow = rule("cart"), rule("cart", to=to(methods=("GET",)))
    found = plan(policies(wide, narrow), policies(wide), [], NOW)
    assert found.is_empty
    assert found.is_complete


def test_a_renamed_or_split_rule_changes_nothing() -> None:
    split = (rule("cart", id_="x"), rule("batch", id_="y"))
    assert plan(policies(rule("cart", "batch")), policies(*split), [], NOW).is_empty


def test_names_what_a_wider_pattern_leaves_out() -> None:
    found = plan(policies(rule("cart")), policies(rule("cart"), rule("spiffe://corp.test/**")), [], NOW)
    assert short(found.newly_allowed) == [
        ("spiffe://corp.test/**", 8080, ("*",), ("/**",), {"source_not_in": [ID + "cart"]})
    ]


def test_names_the_methods_that_are_left_out() -> None:
    before = rule("cart", to=to(methods=("GET",)))
    found = plan(policies(before), policies(rule("cart")), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"method_not_in": ["GET"]})]


def test_names_the_paths_that_are_left_out() -> None:
    before = rule("cart", to=to(paths=paths("/o/{id:int}")))
    found = plan(policies(before), policies(rule("cart", to=to(paths=paths("/o/**")))), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/o/**",), {"path_not_in": ["/o/{id:int}"]})]


def test_a_new_deny_takes_what_the_allow_gave() -> None:
    deny = rule("any", effect=Effect.DENY, to=to(paths=paths("/admin", "/admin/**")))
    found = plan(policies(rule("cart")), policies(rule("cart"), deny), [], NOW)
    assert short(found.newly_denied) == [("cart", 8080, ("*",), ("/admin", "/admin/**"), {})]
    assert found.newly_denied[0].because == ("p/r1", "p/r0")


def test_hosts_stand_under_when() -> None:
    hosts = (HostPattern.parse("*.corp.test"), HostPattern.parse("db.corp.test"))
    found = plan(policies(), policies(rule("cart", to=to(hosts=hosts))), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"hosts": ["*.corp.test", "db.corp.test"]})]


def test_a_switch_to_observe_is_newly_allowed_access() -> None:
    observed = policies(rule("cart"), services=(service(mode=Mode.OBSERVE, until=LATER),))
    found = plan(policies(rule("cart")), observed, [], NOW)
    stretch = {"from": "2026-11-24T12:00:00.000000Z", "until": "2026-11-27T12:00:00.000000Z"}
    assert short(found.newly_allowed) == [
        ("any", 8080, ("*",), ("/**",), {"source_not_in": [ID + "cart"], "time": [stretch]})
    ]
    assert found.newly_allowed[0].because == ("db: observe",)


def test_a_switch_to_enforce_is_newly_denied_access() -> None:
    observed = policies(rule("cart"), services=(service(mode=Mode.OBSERVE, until=LATER),))
    found = plan(observed, policies(rule("cart")), [], NOW)
    assert [row.source for row in found.newly_denied] == ["any"]
    assert found.newly_allowed == ()


def exception(until: dt.datetime) -> ExceptionGrant:
    return ExceptionGrant(
        name="e", owner="", service="db", from_=(Principal.parse(ID + "cart"),), until=until, reason="r"
    )


def test_a_longer_exception_is_newly_allowed_later() -> None:
    end = LATER + dt.timedelta(days=1)
    found = plan(policies(exceptions=(exception(LATER),)), policies(exceptions=(exception(end),)), [], NOW)
    stretch = {"from": "2026-11-27T12:00:00.000000Z", "until": "2026-11-28T12:00:00.000000Z"}
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"time": [stretch]})]
    assert found.newly_allowed[0].because == ("e/exception",)


def test_an_exception_that_is_over_changes_nothing() -> None:
    assert plan(policies(), policies(exceptions=(exception(NOW),)), [], NOW).is_empty


def test_a_new_port_is_new_access() -> None:
    two = (Port(port=8080, protocol="http"), Port(port=5432, protocol="tcp"))
    found = plan(policies(rule("cart")), policies(rule("cart"), services=(service(ports=two),)), [], NOW)
    assert short(found.newly_allowed) == [("cart", 5432, (), (), {})]


def test_a_larger_group_is_new_access() -> None:
    def grouped(*members: str) -> PolicySet:
        found = Group(name="g", owner="", members=tuple(Principal.parse(ID + name) for name in members))
        return policies(rule("group:g"), groups=(found,))

    found = plan(grouped("cart"), grouped("cart", "batch"), [], NOW)
    assert short(found.newly_allowed) == [("batch", 8080, ("*",), ("/**",), {})]


def test_conditions_are_shown_with_all_their_values() -> None:
    when = Conditions(headers=(("x-tenant", ("a", "b")),))
    found = plan(policies(), policies(rule("cart", when=when)), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"headers": {"x-tenant": ["a", "b"]}})]
    assert found.is_complete
    assert found.newly_allowed[0].witness.headers == (("x-tenant", "a"),)


def test_a_condition_that_goes_away_is_found() -> None:
    when = Conditions(headers=(("x-tenant", ("a",)),))
    found = plan(policies(rule("cart", when=when)), policies(rule("cart")), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"not": [{"headers": {"x-tenant": ["a"]}}]})]


def test_unless_takes_callers_out() -> None:
    spared = Unless(from_=(Principal.parse(ID + "ops"),))
    deny = rule("any", effect=Effect.DENY, unless=spared)
    found = plan(policies(rule("any")), policies(rule("any"), deny), [], NOW)
    assert short(found.newly_denied) == [("any", 8080, ("*",), ("/**",), {"source_not_in": [ID + "ops"]})]
    assert found.is_complete


def test_a_group_that_nobody_defines_is_everybody_in_a_deny() -> None:
    found = plan(policies(rule("any")), policies(rule("any"), rule("group:gone", effect=Effect.DENY)), [], NOW)
    assert short(found.newly_denied) == [("any", 8080, ("*",), ("/**",), {})]
    assert found.is_complete


def test_a_deny_that_hangs_on_a_header_takes_what_nobody_can_read_too() -> None:
    deny = rule("any", effect=Effect.DENY, when=Conditions(headers=(("x-env", ("dev",)),)))
    found = plan(policies(rule("cart")), policies(rule("cart"), deny), [], NOW)
    assert [row.when for row in found.newly_denied] == [
        {"headers": {"x-env": ["dev"]}},
        {"unknown": ["headers.x-env"]},
    ]
    assert all(row.is_replayed for row in found.newly_denied)


def test_the_same_said_in_other_words_changes_nothing() -> None:
    apart = (
        rule("cart", when=Conditions(headers=(("x", ("a",)),))),
        rule("cart", when=Conditions(headers=(("x", ("b",)),))),
    )
    together = rule("cart", when=Conditions(headers=(("x", ("b", "a")),)))
    found = plan(policies(*apart), policies(together), [], NOW)
    assert found.is_empty
    assert found.is_complete


def test_a_custom_rule_is_opaque_and_its_rows_are_replayed_as_they_suppose() -> None:
    custom = rule("cart", when=Conditions(rego="data.shop.extra"))
    found = plan(policies(), policies(custom), [], NOW)
    assert short(found.newly_allowed) == [("cart", 8080, ("*",), ("/**",), {"rego": "data.shop.extra"})]
    assert found.is_complete


def test_a_custom_rule_of_other_modules_is_another_rule() -> None:
    def version(source: str) -> PolicySet:
        return policies(rule("cart", when=Conditions(rego="data.shop.extra")), rego=(RegoModule("a.rego", source),))

    assert plan(version("a"), version("a"), [], NOW).is_empty
    found = plan(version("a"), version("b"), [], NOW)
    (gained,) = short(found.newly_allowed)
    assert gained[4] == {"rego": "data.shop.extra", "not": [{"rego_before": "data.shop.extra"}]}


def test_a_gone_service_is_newly_denied() -> None:
    found = plan(policies(rule("cart")), PolicySet(), [], NOW)
    assert short(found.newly_denied) == [("cart", 8080, ("*",), ("/**",), {})]


def invariant(*callers: str, **fields: Any) -> Invariant:
    found = tuple(Principal.parse(text if ":" in text or text == "any" else ID + text) for text in callers)
    return Invariant(name="pci", owner="", service="db", from_=found, **fields)


def test_finds_a_witness_against_an_invariant() -> None:
    held = (invariant("spiffe://corp.test/ns/shop/**", to=to(paths=paths("/cards/**"))),)
    found = plan(policies(rule("cart")), policies(rule("cart"), invariants=held), [], NOW)
    assert found.is_empty
    assert found.has_findings
    (result,) = found.invariants
    assert result.row is not None
    assert result.row.is_replayed
    assert result.row.witness.path is not None
    assert result.row.witness.path.startswith("/cards/")
    assert result.to_json()["holds"] is False


def test_an_invariant_holds_beside_allows_that_do_not_touch_it() -> None:
    held = (invariant("batch"), invariant("cart", to=to(methods=("DELETE",))))
    allowed = rule("cart", to=to(methods=("GET",)))
    found = plan(policies(allowed), policies(allowed, invariants=held), [], NOW)
    assert [result.holds for result in found.invariants] == [True, True]
    assert not found.has_findings


def test_a_removed_invariant_is_named() -> None:
    found = plan(policies(invariants=(invariant("any"),)), policies(), [], NOW)
    assert [result.to_json() for result in found.invariants] == [
        {"invariant": "pci", "service": "db", "holds": True, "removed": True}
    ]


def test_has_the_public_form() -> None:
    obj = plan(policies(), policies(rule("cart")), [], NOW).to_json()
    assert set(obj) == {"newly_allowed", "newly_denied", "invariants", "impact", "complete"}
    (row,) = obj["newly_allowed"]  # type: ignore[misc]
    assert set(row) == {"source", "service", "port", "methods", "paths", "when", "witness", "replayed", "because"}  # type: ignore[has-type]
    assert obj["impact"] == {"same": 0, "newly_allowed": 0, "newly_denied": 0, "uncertain": 0}


@settings(max_examples=examples(40), deadline=None)
@given(st.data(), SETS, SETS, st.sampled_from([0, 1, rowing.MANY]))
def test_rows_speak_of_exactly_the_requests_that_are_decided_differently(
    data: Any, old: PolicySet, new: PolicySet, many: int
) -> None:
    with mock.patch.object(rowing, "MANY", many):  # rows that name their callers come of few of them too
        found = plan(old, new, [], NOW)
    assert found.is_complete
    ports = [port.port for side in (old, new) for port in side.services[0].ports]
    for _ in range(10):
        request = data.draw(requests(sorted(set(ports))))
        before = reference.decide(old, request, snapshot="").effect
        after = reference.decide(new, request, snapshot="").effect
        gained = any(speaks_of(row, request) for row in found.newly_allowed)
        lost = any(speaks_of(row, request) for row in found.newly_denied)
        assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
        assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))


@settings(max_examples=examples(25), deadline=None)
@given(SETS, SETS)
def test_every_witness_differs_as_its_row_says(old: PolicySet, new: PolicySet) -> None:
    found = plan(old, new, [], NOW)
    for rows, gains in ((found.newly_allowed, True), (found.newly_denied, False)):
        for row in rows:
            assert row.is_replayed
            assert speaks_of(row, row.witness)
            before = reference.decide(old, row.witness, snapshot="").is_allowed
            after = reference.decide(new, row.witness, snapshot="").is_allowed
            assert (before, after) == (not gains, gains)


@settings(max_examples=examples(10), deadline=None)
@given(
    strategies.policy_sets,
    strategies.policy_sets,
    st.lists(strategies.requests, min_size=1, max_size=12),
    ANSWERS,
    st.sampled_from(("sensitive", "sensitive", "insensitive")),
)
def test_rows_with_conditions_speak_of_exactly_the_requests_that_are_decided_differently(
    old: PolicySet, new: PolicySet, asked: list[Request], custom: Any, case: Any
) -> None:
    assume(not strategies.folds(old, new))
    new = dataclasses.replace(new, services=tuple(dataclasses.replace(item, path_case=case) for item in new.services))
    old = dataclasses.replace(old, services=tuple(dataclasses.replace(item, path_case=case) for item in old.services))
    found = plan(old, new, [], strategies.NOW)
    assert found.is_complete
    assert all(row.is_replayed for row in (*found.newly_allowed, *found.newly_denied))
    diagram = build("db", [old, new], strategies.NOW)
    headers = old.headers_for("db") | new.headers_for("db")
    for request in (dataclasses.replace(item, service="db") for item in asked):
        if leaf_of(diagram, request, custom) is None:
            continue  # refused before any rule, or no caller
        if request.time is not None and request.time < strategies.NOW:
            continue  # plans are about the future
        sides = (dataclasses.replace(side, custom=custom) for side in (old, new))
        before, after = (reference.decide(side, request, snapshot="").effect for side in sides)
        gained = any(speaks_of(row, request, headers, custom, case) for row in found.newly_allowed)
        lost = any(speaks_of(row, request, headers, custom, case) for row in found.newly_denied)
        assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
        assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))


@settings(max_examples=examples(15), deadline=None)
@given(SETS)
def test_order_and_names_change_nothing(version: PolicySet) -> None:
    renamed = tuple(dataclasses.replace(found, name=f"new-{found.name}") for found in reversed(version.policies))
    assert plan(version, dataclasses.replace(version, policies=renamed), [], NOW).is_empty


CROWD = [f"c{place:02}" for place in range(24)]


@settings(max_examples=examples(15), deadline=None)
@given(st.data(), st.lists(OPERATIONS, min_size=1, max_size=3), TIERS)
def test_a_crowd_of_callers_gains_and_loses_exactly_what_is_decided_differently(
    data: Any, operations: list[Operation], tier: Any
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(operations), min_size=len(CROWD), max_size=len(CROWD)))
    allows = [rule(name, to=(kind,)) for name, kind in zip(CROWD, kinds, strict=True)]
    old = policies(*allows)
    deny = Policy(name="deny", owner="", service="db", tier=tier, rules=(data.draw(RULES),))
    observed = (service(mode=Mode.OBSERVE, until=LATER),)
    new = data.draw(
        st.sampled_from(
            [
                dataclasses.replace(old, services=observed),
                dataclasses.replace(old, policies=(*old.policies, deny)),
                dataclasses.replace(old, policies=(*old.policies, deny), services=observed),
                policies(*allows[:12]),
            ]
        )
    )
    found = plan(old, new, [], NOW)
    assert found.is_complete
    assert all(row.is_replayed for row in (*found.newly_allowed, *found.newly_denied))
    for request in [data.draw(requests([8080])) for _ in range(4)]:
        for caller in (*CROWD[::5], "x"):
            asked = dataclasses.replace(request, source=ID + caller)
            before, after = (reference.decide(side, asked, snapshot="").effect for side in (old, new))
            gained = any(speaks_of(row, asked) for row in found.newly_allowed)
            lost = any(speaks_of(row, asked) for row in found.newly_denied)
            assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
            assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))


@settings(max_examples=examples(15), deadline=None)
@given(own_paths(CROWD), st.data())
def test_callers_with_paths_of_their_own_gain_and_lose_exactly_what_is_decided_differently(
    versions: tuple[PolicySet, PolicySet], data: Any
) -> None:
    old, new = versions
    found = plan(old, new, [], NOW)
    assert found.is_complete
    for row in (*found.newly_allowed, *found.newly_denied):
        assert row.is_replayed
        assert speaks_of(row, row.witness)
    segments = st.lists(st.sampled_from([*WORDS, "7", ""]), min_size=1, max_size=3)
    for asked in data.draw(st.lists(requests([8080]), min_size=4, max_size=4)):
        path = "/" + "/".join(data.draw(segments))
        for caller in (*CROWD[::5], "x"):
            request = dataclasses.replace(asked, source=ID + caller, path=path)
            before, after = (reference.decide(side, request, snapshot="").effect for side in (old, new))
            gained = any(speaks_of(row, request) for row in found.newly_allowed)
            lost = any(speaks_of(row, request) for row in found.newly_denied)
            assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
            assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))


def test_a_switch_to_observe_among_callers_with_paths_of_their_own_is_a_few_rows_that_say_of_each_its_own() -> None:
    own = {name: f"/own-{name}/{{id}}" for name in CROWD}
    old = policies(*(rule(name, to=to(methods=("GET",), paths=paths("/health", path))) for name, path in own.items()))
    found = plan(old, dataclasses.replace(old, services=(service(mode=Mode.OBSERVE, until=LATER),)), [], NOW)
    assert all(row.is_replayed for row in found.newly_allowed)
    assert [(row.source, row.methods, row.when.get("by_source")) for row in found.newly_allowed] == [
        (ID + "**", ("*",), [{"source": ID + name, "path_not_in": ["/health", path]} for name, path in own.items()]),
        ("any", ("*",), None),
        (ID + "**", ("*",), [{"source": ID + name, "paths": ["/health", path]} for name, path in own.items()]),
    ]
    assert found.newly_allowed[2].paths == ("/health", *sorted(own.values()))


def guarded(policies_: PolicySet, *denied: str) -> PolicySet:
    """The same, with a deny of the guardrail tier for everybody."""
    deny = Policy(
        name="g",
        owner="",
        service="db",
        tier="guardrail",
        rules=(rule("any", effect=Effect.DENY, id_="d", to=to(ports=(8080,), paths=paths(*denied))),),
    )
    return dataclasses.replace(policies_, policies=(*policies_.policies, deny))


def test_a_deny_of_a_guardrail_that_meets_a_thousand_allows_is_one_row_that_names_them_all() -> None:
    old = policies(
        *(
            rule(
                f"c{place:04}",
                to=to(methods=("GET",) if place % 2 else None, paths=paths("/health", f"/own-{place}/x")),
                when=Conditions(headers=(("x-tenant", (f"t{place}",)),)) if place % 3 else None,
            )
            for place in range(1000)
        )
    )
    found = plan(old, guarded(old, "/**"), [], NOW)
    assert found.newly_allowed == ()
    (row,) = found.newly_denied
    assert (row.because, row.is_replayed, len(row.beside)) == (("g/d",), True, 999)
    entries = row.when["by_source"]
    assert isinstance(entries, list)
    assert [entry["because"] for entry in entries] == [[f"p/r{place}"] for place in range(1000)]
    for place in (0, 1, 2, 999):
        for path, method, tenant in itertools.product(
            ("/health", f"/own-{place}/x", "/own-5/x"), ("GET", "PUT"), ("t0", f"t{place}")
        ):
            asked = Request(
                service="db",
                port=8080,
                protocol="http",
                source=f"{ID}c{place:04}",
                method=method,
                path=path,
                headers=(("x-tenant", tenant),),
                time=NOW,
            )
            was = reference.decide(old, asked, snapshot="").effect
            assert speaks_of(row, asked, frozenset({"x-tenant"})) == (was is Effect.ALLOW)


def test_what_a_guardrail_no_longer_denies_is_one_row() -> None:
    old = policies(*(rule(name, to=to(paths=paths("/o", f"/own-{name}"))) for name in CROWD))
    (row,) = plan(guarded(old, "/own-c00", "/o"), old, [], NOW).newly_allowed
    assert (row.because, row.paths, row.is_replayed) == (("g/d",), ("/o", f"/own-{CROWD[0]}"), True)


def test_a_thousand_allows_that_are_added_are_a_row_each() -> None:
    new = policies(*(rule(name, to=to(paths=paths(f"/own-{name}"))) for name in CROWD))
    assert len(plan(policies(), new, [], NOW).newly_allowed) == len(CROWD)


def test_a_switch_to_observe_among_many_callers_alike_is_a_few_rows() -> None:
    old = policies(*(rule(name, to=to(methods=("GET",), paths=paths(f"/p{len(name) % 2}"))) for name in CROWD))
    found = plan(old, dataclasses.replace(old, services=(service(mode=Mode.OBSERVE, until=LATER),)), [], NOW)
    assert [(row.source, row.methods, row.paths) for row in found.newly_allowed] == [
        (ID + "**", ("*",), ("/**",)), ("any", ("*",), ("/**",)), (ID + "**", ("*",), ("/p1",)),
    ]  # fmt: skip
    assert [row.when.get("source_in") for row in found.newly_allowed] == [
        [ID + name for name in CROWD], None, [ID + name for name in CROWD],
    ]  # fmt: skip
    assert all(row.is_replayed for row in found.newly_allowed)


def test_paths_that_cannot_all_be_cut_are_no_clean_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.atoms.MAX_PATH_STEPS", 50)
    crossing = paths(*("/" + "/".join("a" if place == own else "{x}" for place in range(9)) for own in range(9)))
    found = plan(policies(), policies(rule("cart", to=to(paths=crossing))), [], NOW)
    assert (found.is_complete, found.is_empty, found.has_findings) == (False, True, True)


def one_changed(shape: str, count: int) -> tuple[PolicySet, PolicySet]:
    if shape == "many-callers":
        rules = [rule(f"c{index}", to=to(paths=paths(f"/p{index % 50}/**"))) for index in range(count)]
        changed = rule("c5", to=to(paths=paths("/other")))
    else:
        rules = [rule("cart", to=to(paths=paths(f"/p{index}/{{id}}"))) for index in range(count)]
        changed = rule("cart", to=to(paths=paths("/p5/{id:int}")))
    return policies(*rules), policies(*rules[:5], changed, *rules[6:])


@pytest.mark.parametrize("shape", ["many-callers", "many-paths"])
def test_the_diagram_of_one_change_does_not_grow_with_the_rules(shape: str) -> None:
    work = []
    for count in (100, 1_000):
        with (
            mock.patch.object(Builder, "step", autospec=True, side_effect=Builder.step) as steps,
            mock.patch.object(reference, "decide", side_effect=reference.decide) as replays,
        ):
            found = plan(*one_changed(shape, count), [], NOW)
        assert not found.is_empty
        assert found.is_complete
        work.append((steps.call_count, replays.call_count))
    assert work[0] == work[1]
    assert 0 < work[0][0] < 20
    assert work[0][1] == 2 * len(found.newly_allowed + found.newly_denied)  # each witness once a version
