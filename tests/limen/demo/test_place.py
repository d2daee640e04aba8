import pathlib
import stat

from ca.rulefile import has_errors, load_rules
from limen.demo.place import CALLS, PROGRAMS, SERVICES, free_ports, prepare
from policyengine.loader import load_tree
from tests.world import START


def test_programs_rules_and_policies_are_all_usable(tmp_path: pathlib.Path) -> None:
    place = prepare(tmp_path, START)
    rules, findings = load_rules((tmp_path / "identities.yaml").read_text("utf-8"), "identities.yaml")
    assert not has_errors(findings)
    assert len(rules.rules) == 1
    policies, found = load_tree(place.path("policies"))
    assert not [item for item in found if item.severity == "error"]
    assert {item.name for item in policies.services} == set(SERVICES)
    for name in PROGRAMS:
        assert stat.S_IMODE(place.program(name).stat().st_mode) == 0o555
        assert set(place.environment(name)) >= {f"{service.upper()}_PORT" for service in CALLS[name]}


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(40))) == 40
