"""What a service allows, as boxes: the same requests that the index allows."""

from __future__ import annotations

import datetime as dt
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from policyengine.attributes import identity_of
from policyengine.canonical import CanonicalPath, canonical_path
from policyengine.compile import allowed as module
from policyengine.compile.allowed import INVALID_TOKEN, TooManyPieces, allowed_of
from policyengine.decide import Index
from policyengine.diagram import build
from policyengine.ir import normalise
from policyengine.lookup import leaf_of
from policyengine.probes import probes_of
from tests.examples import examples
from tests.policyengine.targets import trees

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


def _holds(piece, call, case) -> bool:
    import ipaddress

    box, caller = piece.box, identity_of(call.caller)
    if piece.port != call.port or caller is None:
        return False

    def inside(field, fits) -> bool:
        return (field.inside is None or any(map(fits, field.inside))) and not any(map(fits, field.outside))

    address = ipaddress.ip_address(call.peer_ip)
    if not inside(box.callers, lambda item: item.matches(caller)) or not inside(
        box.peers, lambda item: address in item
    ):
        return False
    if call.protocol == "tcp":
        return not box.reads_request
    path, headers = canonical_path(call.path, case).segments, dict(call.headers)
    claims = dict(call.claims or ())

    def has(test) -> bool:
        value = claims.get(test.key)
        return any(item in test.values for item in (value if isinstance(value, list) else [value])) == test.is_positive

    return (
        inside(box.methods, lambda item: item == call.method)
        and inside(box.hosts, lambda item: item.matches(call.host))
        and inside(box.paths, lambda item: item.matches(path))
        and all(inside(field, headers.get(name, "").__eq__) for name, field in box.headers)
        and all(has(test) for test in box.tests)
    )


@pytest.mark.parametrize("with_denies", [False, True])
@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets, st.lists(trees.calls, min_size=1, max_size=12))
def test_the_pieces_hold_what_the_index_allows_and_no_more(with_denies, policies, calls) -> None:
    service = policies.service_for("db")
    found = allowed_of(normalise(policies, service), with_denies=with_denies)
    index = Index(policies, "s")
    for call in calls:
        case = service.path_case
        ours = any(_holds(piece, call, case) for piece in found.allows)
        ours = ours and not any(_holds(piece, call, case) for piece in found.denies)
        assert ours == (index.decide(call.request("db")).effect is Effect.ALLOW), call


def _call(request):
    """A request of a class as `_holds` takes it; None where not all attributes are known: boxes do not speak of it."""
    is_odd = request.unknown or request.source is None or identity_of(request.source) is None
    if is_odd or request.host == "?" or any(not value.isprintable() for _, value in request.headers):
        return None
    if request.protocol != "tcp" and not isinstance(canonical_path(request.path or "-"), CanonicalPath):
        return None
    return types.SimpleNamespace(
        caller=request.source, port=request.port, protocol=request.protocol, method=request.method,
        host=request.host or "", path=request.path, headers=request.headers, claims=request.claims,
        peer_ip=request.peer_ip or "192.0.2.1",
    )  # fmt: skip


# INVARIANT: boxes and leaves are one meaning: EVERY class of requests that the diagram knows is in a box or is not.
@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets)
def test_the_pieces_hold_every_class_of_the_diagram_that_its_leaf_allows(policies) -> None:
    service = policies.service_for("db")
    found = allowed_of(normalise(policies, service))
    diagram = build("db", [policies], NOW)
    for request in probes_of(policies, NOW, 400):
        call = _call(request)
        leaf = None if call is None or request.service != "db" else leaf_of(diagram, request)
        if leaf is None:
            continue
        ours = any(_holds(piece, call, service.path_case) for piece in found.allows)
        assert ours == (leaf.verdicts[0].effect is Effect.ALLOW), request


def _form(rules):
    policies = trees.tree(rules)
    return normalise(policies, policies.service_for("db"))


def test_a_deny_that_cuts_everything_may_stay_a_deny() -> None:
    form = _form(
        [{"id": "a", "effect": "allow", "from": ["any"]}, {"id": "d", "effect": "deny", "from": [trees.CALLERS[0]]}]
    )
    kept = allowed_of(form, with_denies=True)
    assert [piece.rule for piece in kept.denies] == ["d"]
    assert [str(item) for item in allowed_of(form).allows[0].box.callers.outside] == [trees.CALLERS[0]]


def test_a_deny_for_tokens_that_do_not_verify_is_no_box() -> None:
    rule = {"id": "d", "effect": "deny", "from": ["any"], "when": {"claims": {"issuer": INVALID_TOKEN}}}
    assert not allowed_of(_form([rule]), with_denies=True).denies


def test_too_many_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BOXES", 3)
    denies = [
        {
            "id": f"d{n}",
            "effect": "deny",
            "from": [f"spiffe://corp.test/x/{n}"],
            "to": [{"methods": [f"M{n}"], "paths": [f"/{n}"]}],
        }
        for n in range(4)
    ]
    with pytest.raises(TooManyPieces):
        allowed_of(_form([{"id": "a", "effect": "allow", "from": ["any"]}, *denies]))
