import datetime as dt
from typing import Any

import pytest

from mesh.request import Effect, Mode
from mesh.spiffe import SpiffePattern
from policyengine.canonical import PathPattern
from policyengine.model import Conditions, Operation, PolicySet, Port, Principal, RegoModule, Unless
from policyengine.regions import changes_of, form_of, regions_of, watched_regions

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=1)
ID = "spiffe://corp.test/ns/shop/sa/"


@pytest.fixture
def version(make_service: Any, make_policy: Any) -> Any:
    def make(*rules: Any, of_service: Any = None, **fields: Any) -> PolicySet:
        policies = (make_policy("db", *rules),) if rules else ()
        services = (make_service("db", **(of_service or {})), make_service("web"))
        return PolicySet(**{"services": services, "policies": policies, **fields})

    return make


def paths(*texts: str) -> tuple[PathPattern, ...]:
    return tuple(PathPattern.parse(text) for text in texts)


def only(old: PolicySet, new: PolicySet) -> Any:
    (change,) = changes_of(old, new)
    return change, list(regions_of(change))


def test_an_unchanged_service_is_no_change(version: Any, make_rule: Any) -> None:
    old, new = version(make_rule("r", "cart")), version(make_rule("r", "batch"))
    assert [change.service for change in changes_of(old, new)] == ["db"]
    assert changes_of(old, old) == ()


def test_names_owners_and_evidence_are_no_change(version: Any, make_rule: Any) -> None:
    old = version(make_rule("r", "cart"), of_service={"owner": "a"})
    new = version(make_rule("other", "cart", evidence="{}"), of_service={"owner": "b"})
    assert changes_of(old, new) == ()


@pytest.mark.parametrize(
    "of_service",
    [
        pytest.param({"mode": Mode.OBSERVE, "until": LATER}, id="mode"),
        pytest.param({"ports": (Port(port=8080, protocol="tcp"),)}, id="protocol"),
        pytest.param({"ports": (Port(port=8081, protocol="http"),)}, id="port"),
    ],
)
def test_a_service_that_differs_itself_is_cut_whole(version: Any, make_rule: Any, of_service: Any) -> None:
    change, regions = only(version(make_rule("r", "cart")), version(make_rule("r", "cart"), of_service=of_service))
    assert change.is_whole
    assert sorted(callers.name for region in regions for callers in region.callers) == ["any", ID + "cart"]


def test_identities_of_the_called_service_are_no_access_to_it(version: Any, make_rule: Any) -> None:
    more = (SpiffePattern.parse(ID + "db"), SpiffePattern.parse(ID + "db2"))
    assert (
        changes_of(version(make_rule("r", "cart")), version(make_rule("r", "cart"), of_service={"identities": more}))
        == ()
    )


def test_cuts_only_the_callers_that_a_changed_grant_speaks_of(version: Any, make_rule: Any) -> None:
    kept = [make_rule(f"k{index}", f"c{index}") for index in range(50)]
    _, (region,) = only(version(*kept), version(*kept, make_rule("new", "batch")))
    assert [callers.name for callers in region.callers] == [ID + "batch"]
    assert len(region.classes) == 52


def test_callers_that_the_same_grants_speak_of_share_a_region(version: Any, make_rule: Any) -> None:
    _, regions = only(version(), version(make_rule("r", "a", "b", "c")))
    assert [[callers.name for callers in region.callers] for region in regions] == [[ID + "a", ID + "b", ID + "c"]]


def test_callers_that_unless_tells_apart_do_not(version: Any, make_rule: Any) -> None:
    spared = Unless(from_=(Principal.parse(ID + "a"),))
    _, regions = only(version(), version(make_rule("r", "a", "b", unless=spared)))
    assert len(regions) == 2


def test_cuts_only_the_paths_that_a_changed_grant_reaches(version: Any, make_rule: Any) -> None:
    kept = [make_rule(f"k{index}", "cart", to=(Operation(paths=paths(f"/p{index}")),)) for index in range(50)]
    changed = make_rule("new", "cart", to=(Operation(paths=paths("/p7", "/q")),))
    _, (region,) = only(version(*kept), version(*kept, changed))
    assert sorted(path for _, path in region.ports[0].paths) == [("p7",), ("q",)]


def test_cuts_only_the_ports_that_a_changed_grant_names(version: Any, make_rule: Any) -> None:
    two = {"ports": (Port(port=8080, protocol="http"), Port(port=5432, protocol="tcp"))}
    added = make_rule("new", "cart", to=(Operation(ports=(5432,)),))
    _, (region,) = only(version(of_service=two), version(added, of_service=two))
    assert [axes.port for axes in region.ports] == [5432]


def test_a_group_that_nobody_defines_is_everybody_in_a_deny_and_nobody_in_an_allow(
    version: Any, make_rule: Any
) -> None:
    _, denied = only(
        version(make_rule("a", "any")), version(make_rule("a", "any"), make_rule("r", "group:gone", effect=Effect.DENY))
    )
    assert [callers.name for region in denied for callers in region.callers] == ["any"]
    _, allowed = only(version(), version(make_rule("r", "group:gone")))
    assert allowed == []


def test_says_of_every_grant_whether_unless_spares_the_callers(version: Any, make_rule: Any) -> None:
    spared = Unless(from_=(Principal.parse(ID + "a"),))
    _, regions = only(version(), version(make_rule("r", "a", "b", unless=spared)))
    found = {region.callers[0].name.removeprefix(ID): region.spoken[0].is_spared for region in regions}
    assert found == {"a": True, "b": False}
    loose = Unless(from_=(Principal.parse("group:gone"),))
    _, (region,) = only(version(), version(make_rule("r", "a", unless=loose)))
    assert region.spoken[0].is_spared is None


def test_a_custom_rule_of_other_modules_is_another_test(version: Any, make_rule: Any) -> None:
    custom = make_rule("r", "a", when=Conditions(rego="data.x.y"))
    _, (region,) = only(
        version(custom, rego=(RegoModule("a.rego", "old"),)), version(custom, rego=(RegoModule("a.rego", "new"),))
    )
    assert [found.when[0].attribute for found in region.spoken] == ["rego.data.x.y before", "rego.data.x.y"]


def test_watches_what_a_grant_speaks_of_as_a_version_of_its_own(version: Any, make_rule: Any) -> None:
    form = form_of(version(make_rule("r", "a", "b"), make_rule("s", "c")), "db")
    assert form is not None
    (region,) = watched_regions(form, form.grants[0])
    assert [callers.name for callers in region.callers] == [ID + "a", ID + "b"]
    assert [found.version for found in region.spoken] == [0, 1]


DENIES = [
    pytest.param({"paths": paths("/a/**")}, True, id="what-meets-an-allow"),
    pytest.param({"paths": paths("/b/**")}, False, id="another-path"),
    pytest.param({"methods": ("PUT",)}, False, id="another-method"),
    pytest.param({"ports": (5432,)}, False, id="another-port"),
    pytest.param({}, True, id="everything"),
]


@pytest.mark.parametrize(("what", "is_cut"), DENIES)
def test_a_deny_is_looked_at_where_something_is_allowed(
    version: Any, make_rule: Any, what: dict[str, Any], is_cut: bool
) -> None:
    ports = (Port(port=8080, protocol="http"), Port(port=5432, protocol="tcp"))
    kept = make_rule("r", "cart", to=(Operation(ports=(8080,), methods=("GET",), paths=paths("/a/{x}")),))
    deny = make_rule("d", "cart", effect=Effect.DENY, to=(Operation(**what),))
    for mode in ({}, {"mode": Mode.OBSERVE, "until": LATER}):
        of_service = {"ports": ports, **mode}
        _, regions = only(version(kept, of_service=of_service), version(kept, deny, of_service=of_service))
        assert bool(regions) == (is_cut or bool(mode))
