"""What a service allows, as boxes: the same requests that the index allows."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from policyengine.attributes import identity_of
from policyengine.canonical import canonical_path
from policyengine.compile import allowed as module
from policyengine.compile.allowed import INVALID_TOKEN, TooManyPieces, allowed_of
from policyengine.decide import Index
from policyengine.ir import normalise
from tests.examples import examples
from tests.policyengine.targets import trees


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
