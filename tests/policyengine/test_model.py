"""The model refuses emptiness where it would come to mean "anything", and round-trips through JSON."""

import datetime as dt

import pytest

from mesh.request import Effect, Mode
from mesh.spiffe import SpiffeId
from policyengine import model
from policyengine.model import Principal, policy_set_from_json
from tests.policyengine.corners import FUTURE, NOW, TD, allow, grant, tree

ANY = (Principal.parse("any"),)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: model.Operation(ports=()), id="ports"),
        pytest.param(lambda: model.Operation(methods=()), id="methods"),
        pytest.param(lambda: model.Operation(hosts=()), id="hosts"),
        pytest.param(lambda: model.Operation(paths=()), id="paths"),
        pytest.param(lambda: model.Rule(id="r", effect=Effect.ALLOW, from_=()), id="from"),
        pytest.param(lambda: model.Rule(id="r", effect=Effect.ALLOW, from_=ANY, to=()), id="to"),
        pytest.param(model.Conditions, id="when"),
        pytest.param(lambda: model.Conditions(headers=()), id="headers"),
        pytest.param(lambda: model.Conditions(headers=(("x", ()),)), id="header-values"),
        pytest.param(lambda: model.Conditions(peer_ip=()), id="peer_ip"),
        pytest.param(lambda: model.ClaimsCondition(issuer="i", values=(("roles", ()),)), id="claim-values"),
        pytest.param(model.Unless, id="unless"),
        pytest.param(lambda: model.Unless(from_=()), id="unless-from"),
        pytest.param(lambda: model.Policy(name="p", owner="", service="s", tier="app", rules=()), id="rules"),
        pytest.param(lambda: model.Service(name="s", owner="", identities=(), ports=()), id="identities"),
    ],
)
def test_an_empty_tuple_never_means_anything(build: object) -> None:
    with pytest.raises(ValueError, match=r"empty|at least one|has `from` or `when`"):
        build()  # type: ignore[operator]  # a builder


def test_observe_needs_an_end() -> None:
    service = tree().services[0]
    with pytest.raises(ValueError, match="until"):
        model.Service(name="s", owner="", identities=service.identities, ports=service.ports, mode=Mode.OBSERVE)


@pytest.mark.parametrize("text", ["any", f"{TD}/ns/a", f"{TD}/**", "group:g", "service:db"])
def test_principal_round_trips(text: str) -> None:
    assert str(Principal.parse(text)) == text


@pytest.mark.parametrize("text", ["", "*", "web", "group:", "users:x", f"{TD}/ns/*/x", TD, "spiffe://"])
def test_principal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Principal.parse(text)


@pytest.mark.parametrize(
    ("start", "end", "moment", "expected"),
    [
        (8, 18, 8, True),
        (8, 18, 18, False),
        (22, 6, 23, True),
        (22, 6, 5, True),
        (22, 6, 6, False),
        (22, 6, 12, False),
    ],
)
def test_hours(start: int, end: int, moment: int, expected: bool) -> None:
    hours = model.Hours(tz="UTC", start=dt.time(start), end=dt.time(end))
    assert hours.contains(dt.time(moment)) is expected


def test_groups_expand_through_groups_and_services() -> None:
    policies = tree(groups={"g": ["group:h", "service:web"], "h": [f"{TD}/ns/audit/**"]})
    found = policies.expand((Principal.parse("group:g"),))
    assert found.contains(SpiffeId.parse(f"{TD}/ns/audit/x"))
    assert found.contains(SpiffeId.parse(f"{TD}/ns/shop/sa/web"))
    assert not found.contains(SpiffeId.parse(f"{TD}/ns/shop/sa/cart"))
    assert not found.incomplete


def test_a_missing_name_makes_principals_incomplete() -> None:
    assert tree().expand((Principal.parse("group:nope"),)).incomplete


def test_service_is_found_by_name_and_by_identity() -> None:
    policies = tree()
    assert policies.service_for("db") is policies.service_for(f"{TD}/ns/shop/sa/db")
    assert policies.service_for("spiffe://") is None


def test_json_round_trips() -> None:
    found = tree(app=[allow()], exceptions=[grant(FUTURE)], observe=FUTURE).to_json()
    assert policy_set_from_json(found).to_json() == found


def test_exception_and_observe_end_when_time_is_unknown() -> None:
    policies = tree(exceptions=[grant(FUTURE)], observe=FUTURE)
    assert policies.exceptions[0].is_active(NOW)
    assert not policies.exceptions[0].is_active(None)
    assert policies.services[0].is_observed(NOW)
    assert not policies.services[0].is_observed(None)
