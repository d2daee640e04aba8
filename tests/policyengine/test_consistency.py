"""What must hold between the objects of a set; the loader's table covers the single rules."""

import dataclasses

from mesh.request import Effect
from mesh.spiffe import SpiffePattern
from policyengine.canonical import PathPattern
from policyengine.consistency import Checked, check
from policyengine.model import Conditions, Group, Invariant, Operation, Policy, Port, Principal, Rule, Service
from tests.policyengine.corners import FUTURE, TD, allow, grant, tree

ANY = (Principal.parse("any"),)


def service(name: str, *identities: str) -> Service:
    return Service(
        name=name,
        owner="",
        identities=tuple(SpiffePattern.parse(text) for text in identities),
        ports=(Port(port=80, protocol="http"),),
    )


def overlaps(*services: Service) -> set[str]:
    found = check(dataclasses.replace(tree(), services=services, policies=()))
    return {str(item.facts["identity"]) for item in found if item.code == "LM2034"}


def test_disjoint_identities_are_accepted() -> None:
    assert not overlaps(
        service("a", f"{TD}/ns/a", f"{TD}/ns/a/**"),
        service("b", f"{TD}/ns/ab/**"),
        service("c", "spiffe://other.test/**"),
    )


def test_identity_of_two_services_is_refused() -> None:
    assert overlaps(service("a", f"{TD}/x"), service("b", f"{TD}/x")) == {f"{TD}/x"}


def test_identity_inside_anothers_subtree_is_refused() -> None:
    assert overlaps(service("a", f"{TD}/x/y/z"), service("b", f"{TD}/x/**")) == {f"{TD}/x/y/z"}
    assert overlaps(service("a", f"{TD}/x/y/**"), service("b", f"{TD}/**")) == {f"{TD}/x/y/**"}


def test_node_itself_is_not_below_its_subtree() -> None:
    assert not overlaps(service("a", f"{TD}/x"), service("b", f"{TD}/x/**"))


def test_neighbour_between_does_not_hide_an_overlap() -> None:
    found = overlaps(service("a", f"{TD}/x/**"), service("b", f"{TD}/x/b/c"), service("c", f"{TD}/x/b/d"))
    assert found == {f"{TD}/x/b/c", f"{TD}/x/b/d"}


def test_ten_thousand_services_are_checked_quickly() -> None:
    services = tuple(service(f"s{n}", f"{TD}/ns/n{n % 100}/sa/s{n}") for n in range(10_000))
    assert not overlaps(*services)


def test_exceptions_share_the_names_of_policies() -> None:
    found = tree(app=[allow()], exceptions=[grant(FUTURE)])
    clash = dataclasses.replace(found.exceptions[0], name="app-db")
    codes = [item.code for item in check(dataclasses.replace(found, exceptions=(clash,)))]
    assert codes == ["LM2030"]


def test_everything_that_is_named_must_exist() -> None:
    whole = tree(
        app=[allow(**{"from": ["group:g", "service:web"]}, unless={"from": ["group:g"]})],
        groups={"g": ["service:web"]},
        exceptions=[grant(FUTURE, to=[{"ports": [8080]}])],
    )
    invariant = Invariant(
        name="i", owner="", from_=whole.policies[0].rules[0].from_, service="db", to=(Operation(ports=(1,)),)
    )
    broken = dataclasses.replace(whole, services=(), groups=whole.groups, invariants=(invariant,))
    assert {item.path for item in check(broken)} == {
        ("policies", 0, "service"),
        ("policies", 0, "rules", 0, "from", 1),
        ("groups", 0, "members", 0),
        ("invariants", 0, "forbid", "service"),
        ("invariants", 0, "forbid", "from", 1),
        ("exceptions", 0, "rule", "service"),
    }
    lost = dataclasses.replace(whole, groups=(), invariants=(invariant,))
    assert {(item.path, item.code) for item in check(lost)} == {
        (("policies", 0, "rules", 0, "from", 0), "LM2033"),
        (("policies", 0, "rules", 0, "unless", "from", 0), "LM2033"),
        (("invariants", 0, "forbid", "from", 0), "LM2033"),
        (("invariants", 0, "forbid", "to", 0, "ports", 0), "LM2036"),
    }


def test_groups_that_lead_back_to_themselves_are_refused() -> None:
    group = Group(name="a", owner="", members=(Principal.parse("group:b"), Principal.parse("group:c")))
    others = (
        Group(name="b", owner="", members=(Principal.parse("group:a"),)),
        Group(name="c", owner="", members=(Principal.parse("any"),)),
    )
    found = check(dataclasses.replace(tree(), groups=(group, *others)))
    assert [(item.code, item.path[1]) for item in found] == [("LM2035", 0), ("LM2035", 1)]


def test_ports_must_have_a_meaning_for_every_field() -> None:
    tcp = tree(ports=[(8080, "http"), (5432, "tcp")])
    paths = (PathPattern.parse("/a"),)
    rules = {
        "LM2036": Rule(id="r", effect=Effect.ALLOW, from_=ANY, to=(Operation(ports=(81,)),)),
        "LM2037": Rule(id="r", effect=Effect.DENY, from_=ANY, to=(Operation(paths=paths),)),
        "LM2039": Rule(id="r", effect=Effect.ALLOW, from_=ANY, to=(Operation(ports=(5432,), paths=paths),)),
        "LM2040": Rule(id="r", effect=Effect.ALLOW, from_=ANY, when=Conditions(rego="x")),
    }
    for code, rule in rules.items():
        policy = Policy(name="p", owner="", service="db", tier="app", rules=(rule,))
        assert [item.code for item in check(dataclasses.replace(tcp, policies=(policy,)))] == [code]
    only = tree(ports=[(5432, "tcp")])
    policy = Policy(
        name="p", owner="", service="db", tier="app", rules=(dataclasses.replace(rules["LM2037"], effect=Effect.ALLOW),)
    )
    assert [item.code for item in check(dataclasses.replace(only, policies=(policy,)))] == ["LM2038"]


def test_the_native_data_plane_has_no_rule_that_reads_grpc_requests() -> None:
    reads, named = {"paths": ["/p.S/M"]}, {"ports": [9000]}

    def codes(plane: str, *rules: Rule) -> list[str]:
        made = tree(ports=[(8080, "http"), (9000, "grpc")], app=list(rules))
        db = dataclasses.replace(made.services[0], dataplane=plane)  # type: ignore[arg-type]  # one of the words
        return [item.code for item in check(dataclasses.replace(made, services=(db, *made.services[1:])))]

    assert codes("native", allow(to=[reads])) == ["LM2043"]
    assert codes("native", allow(when={"headers": {"x-a": ["b"]}}, to=[named])) == ["LM2043"]
    assert codes("native", allow(to=[{**reads, "ports": [8080]}])) == []
    assert codes("native", allow(to=[named])) == []
    assert codes("envoy", allow(to=[reads])) == []


def test_a_policy_without_findings_is_looked_at_again_when_what_it_is_checked_against_changes() -> None:
    good = tree(
        app=[allow(**{"from": ["group:g", "service:web"]}, to=[{"ports": [8080], "paths": ["/a"]}])],
        groups={"g": [f"{TD}/**"]},
    )
    db, web = good.services
    changes = {
        "LM2036": dataclasses.replace(
            good, services=(dataclasses.replace(db, ports=(Port(port=81, protocol="http"),)), web)
        ),
        "LM2039": dataclasses.replace(
            good, services=(dataclasses.replace(db, ports=(Port(port=8080, protocol="tcp"),)), web)
        ),
        "LM2033": dataclasses.replace(good, groups=()),
        "LM2032": dataclasses.replace(good, services=(db,)),
    }
    for code, changed in changes.items():
        checked = Checked()
        assert not check(good, checked)
        assert not check(good, checked)
        found = check(changed, checked)
        assert found == check(changed)
        assert code in {item.code for item in found}
        assert check(changed, checked) == found  # and is not taken for clean because it was looked at
        assert not check(good, checked)
