import dataclasses
import datetime as dt
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.problems import Conflict, Problem
from mesh.spiffe import TrustDomain
from policyengine import dsse
from policyengine.review import (
    APPROVAL_TYPE,
    TRANSITIONS,
    Activation,
    Event,
    State,
    activation_from_json,
    check_approval,
    next_state,
    verify_activation,
)
from policyengine.reviewers import sign_set

DAY = dt.timedelta(days=1)


@pytest.fixture
def world(releases: Any) -> Any:
    """Release `old` is active; `new` lets batch call db as well."""

    class World:
        old = releases.snapshot("cart")
        new = releases.snapshot("cart", "batch")
        approvals = (
            releases.approve("dana", new.hash, old.hash),
            releases.approve("olga", new.hash, old.hash),
        )

        def verify(self, activation: Any = None, **fields: Any) -> Any:
            standard = {
                "reviewer_sets": releases.chain,
                "pinned_set_hash": releases.judges.hash,
                "active": self.old,
                "proposed": self.new,
                "highest_epoch": 1,
                "now": releases.now,
            }
            activation = activation or self.activation()
            return verify_activation(activation, **{**standard, **fields})

        def activation(self, approvals: Any = None, **fields: Any) -> Activation:
            approvals = self.approvals if approvals is None else approvals
            return releases.activation(self.new, self.old, approvals, **fields)

        def refusal(self, activation: Any = None, **fields: Any) -> str:
            with pytest.raises(Problem) as caught:
                self.verify(activation, **fields)
            return caught.value.code

    return World()


def test_accepts_what_the_threshold_and_the_owner_approved(world: Any, releases: Any) -> None:
    assert world.verify() == releases.judges


def test_refuses_without_approvals(world: Any) -> None:
    assert world.refusal(world.activation([])) == "LM2416"


def test_refuses_one_approval_of_two(world: Any) -> None:
    assert world.refusal(world.activation(world.approvals[:1])) == "LM2416"


def test_counts_two_signatures_of_one_key_once(world: Any, releases: Any) -> None:
    again = releases.approve("dana", world.new.hash, world.old.hash, expires=releases.now + 2 * DAY)
    assert world.refusal(world.activation([world.approvals[0], again])) == "LM2416"
    twice = dsse.sign(APPROVAL_TYPE, world.approvals[0].payload, [releases.keys["dana"]] * 2)
    assert world.refusal(world.activation([twice])) == "LM2416"


def test_counts_two_reviewers_of_one_envelope(world: Any, releases: Any) -> None:
    both = dsse.sign(APPROVAL_TYPE, world.approvals[0].payload, [releases.keys["dana"], releases.keys["wim"]])
    world.verify(world.activation([both]))


def test_refuses_an_unknown_key(world: Any, releases: Any) -> None:
    stranger = releases.approve("mallory", world.new.hash, world.old.hash)
    assert world.refusal(world.activation([world.approvals[0], stranger])) == "LM2415"


def test_refuses_the_recovery_key_as_an_approver(world: Any, releases: Any) -> None:
    recovery = releases.approve("rita", world.new.hash, world.old.hash)
    assert world.refusal(world.activation([world.approvals[0], recovery])) == "LM2415"


@pytest.mark.parametrize("owner", ["db", "gone"], ids=["changed", "removed"])
def test_refuses_a_change_that_the_called_services_owner_did_not_approve(world: Any, releases: Any, owner: Any) -> None:
    if owner == "gone":
        web_only = tuple(found for found in world.old.policies.services if found.name == "web")
        policies = dataclasses.replace(world.old.policies, services=web_only, policies=())
        world.new = dataclasses.replace(world.old, policies=policies)
    approvals = [releases.approve(name, world.new.hash, world.old.hash) for name in ("wim", "olga")]
    assert world.refusal(world.activation(approvals)) == "LM2417"


def test_does_not_let_a_change_name_its_own_owner(world: Any, releases: Any, make_service: Any) -> None:
    services = (make_service("db", "team-web"), make_service("web", "team-web"))
    policies = dataclasses.replace(world.new.policies, services=services)
    world.new = dataclasses.replace(world.new, policies=policies)
    approvals = [releases.approve(name, world.new.hash, world.old.hash) for name in ("wim", "olga")]
    assert world.refusal(world.activation(approvals)) == "LM2417"


def test_A51_refuses_swapped_content_under_an_old_approval(world: Any, releases: Any) -> None:
    swapped = releases.snapshot("cart", "batch", "mallory")
    assert world.refusal(proposed=swapped) == "LM2402"
    renamed = dataclasses.replace(world.activation(), snapshot=swapped.hash)
    assert world.refusal(renamed, proposed=swapped) == "LM2412"


def test_A51_refuses_an_approval_replayed_after_another_release(world: Any, releases: Any) -> None:
    third = releases.snapshot("front")
    assert world.refusal(active=third) == "LM2421"
    moved = dataclasses.replace(world.activation(), predecessor=third.hash)
    assert world.refusal(moved, active=third) == "LM2413"


def test_A51_refuses_an_approval_for_another_predecessor_when_nothing_is_active(world: Any) -> None:
    first = dataclasses.replace(world.activation(), predecessor=None)
    assert world.refusal(first, active=None) == "LM2413"


def test_refuses_an_approval_of_another_trust_domain(world: Any, releases: Any) -> None:
    other = TrustDomain("other.test")
    foreign = [releases.approve(name, world.new.hash, world.old.hash, trust_domain=other) for name in ("dana", "olga")]
    assert world.refusal(world.activation(foreign)) == "LM2411"


def test_refuses_a_snapshot_of_another_trust_domain(world: Any, releases: Any) -> None:
    world.new = dataclasses.replace(world.new, trust_domain=TrustDomain("other.test"))
    assert world.refusal(releases.activation(world.new, world.old, world.approvals)) == "LM2411"


@pytest.mark.parametrize(("offset", "code"), [(dt.timedelta(0), "LM2414"), (DAY, "LM2414")], ids=["at", "after"])
def test_refuses_an_expired_approval(world: Any, releases: Any, offset: Any, code: Any) -> None:
    expires = releases.now - offset
    late = releases.approve("olga", world.new.hash, world.old.hash, expires=expires)
    assert world.refusal(world.activation([world.approvals[0], late])) == code


def test_ignores_an_expired_approval_when_the_others_suffice(world: Any, releases: Any) -> None:
    late = releases.approve("wim", world.new.hash, world.old.hash, expires=releases.now - DAY)
    world.verify(world.activation([late, *world.approvals]))


@pytest.mark.parametrize("highest", [2, 3])
def test_refuses_an_epoch_that_is_not_higher(world: Any, highest: Any) -> None:
    assert world.refusal(highest_epoch=highest) == "LM2419"


def test_refuses_the_proposer_among_the_approvers(world: Any, releases: Any) -> None:
    dana = releases.judges.reviewers[0].key_id
    assert world.refusal(world.activation(proposer=dana)) == "LM2418"


def test_refuses_an_activation_in_the_future(world: Any, releases: Any) -> None:
    assert world.refusal(world.activation(activated=releases.now + dt.timedelta(minutes=6))) == "LM2422"
    world.verify(world.activation(activated=releases.now + dt.timedelta(minutes=4)))


def test_refuses_judges_that_the_server_made_up(world: Any, releases: Any) -> None:
    usurpers = dataclasses.replace(releases.judges, threshold=1)
    chain = (sign_set(usurpers, [releases.keys["mallory"]]),)
    assert world.refusal(reviewer_sets=chain) == "LM2406"


def test_refuses_a_chain_that_leaves_out_the_newer_judges_that_a_snapshot_names(world: Any, releases: Any) -> None:
    second = dataclasses.replace(releases.judges, version=2, previous=releases.judges.hash, threshold=3)
    world.old = releases.snapshot("cart", reviewer_set=second.hash)
    assert world.refusal() == "LM2430"


def test_judges_by_the_newest_version_of_the_chain(world: Any, releases: Any) -> None:
    second = dataclasses.replace(releases.judges, version=2, previous=releases.judges.hash, threshold=3)
    chain = (*releases.chain, sign_set(second, [releases.keys["dana"], releases.keys["olga"]]))
    assert world.refusal(reviewer_sets=chain) == "LM2416"
    third = releases.approve("wim", world.new.hash, world.old.hash)
    activation = world.activation([*world.approvals, third])
    assert world.verify(activation, reviewer_sets=chain) == second
    # the pin moves on, the snapshots still name the version before
    assert world.verify(activation, reviewer_sets=chain, pinned_set_hash=second.hash) == second


def test_a_change_of_identity_rules_needs_every_owner(world: Any, releases: Any) -> None:
    world.new = dataclasses.replace(world.old, identity_rules="rules: []")
    approvals = [releases.approve(name, world.new.hash, world.old.hash) for name in ("dana", "olga")]
    assert world.refusal(world.activation(approvals)) == "LM2417"
    world.verify(world.activation([*approvals, releases.approve("wim", world.new.hash, world.old.hash)]))


def back(world: Any, releases: Any, approvals: Any = None, **fields: Any) -> Activation:
    """The order to go from `new` back to `old`."""
    standard = {"direction": "rollback", "epoch": 3}
    approvals = world.approvals if approvals is None else approvals
    return releases.activation(world.old, world.new, approvals, **{**standard, **fields})


def test_an_approval_authorises_the_way_back(world: Any, releases: Any) -> None:
    world.verify(back(world, releases), active=world.new, proposed=world.old, highest_epoch=2)


def test_an_approval_authorises_no_other_way_back(world: Any, releases: Any) -> None:
    older = releases.snapshot("front")
    order = releases.activation(older, world.new, world.approvals, direction="rollback", epoch=3)
    assert world.refusal(order, active=world.new, proposed=older, highest_epoch=2) == "LM2413"


def test_a_forward_activation_cannot_use_the_approval_of_the_way_back(world: Any, releases: Any) -> None:
    order = back(world, releases, direction="forward")
    assert world.refusal(order, active=world.new, proposed=world.old, highest_epoch=2) == "LM2412"


def test_the_way_back_expires_too(world: Any, releases: Any) -> None:
    order = back(world, releases)
    later = releases.now + 2 * DAY
    assert world.refusal(order, active=world.new, proposed=world.old, highest_epoch=2, now=later) == "LM2414"


def test_there_is_no_way_back_from_the_first_release(world: Any, releases: Any) -> None:
    order = back(world, releases, predecessor=None)
    assert world.refusal(order, active=None, proposed=world.old, highest_epoch=2) == "LM2426"


def test_the_first_release_needs_the_threshold_alone(world: Any, releases: Any) -> None:
    approvals = [releases.approve(name, world.new.hash, None) for name in ("wim", "olga")]
    order = releases.activation(world.new, None, approvals, epoch=1)
    world.verify(order, active=None, highest_epoch=0)
    assert world.refusal(dataclasses.replace(order, approvals=approvals[:1]), active=None, highest_epoch=0) == "LM2416"


def test_an_agent_that_joins_late_takes_approvals_that_held_at_the_activation(world: Any, releases: Any) -> None:
    later = releases.now + 30 * DAY
    world.verify(active=None, highest_epoch=0, now=later)
    expired = world.activation(activated=releases.now + 3 * DAY)
    assert world.refusal(expired, active=None, highest_epoch=0, now=later) == "LM2414"


def test_an_agent_that_was_away_catches_up_on_what_it_missed(world: Any, releases: Any) -> None:
    later = releases.now + 30 * DAY
    assert world.refusal(now=later) == "LM2414"
    world.verify(now=later, heard=releases.now - DAY)
    # it heard after the expiry that its snapshot was current: then this was not activated in time
    assert world.refusal(now=later, heard=releases.now + 2 * DAY) == "LM2414"


def test_reads_the_activation_that_it_writes(world: Any) -> None:
    activation = world.activation(proposer="sha256:x")
    assert activation_from_json(json.loads(json.dumps(activation.to_json()))) == activation


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", 0),
        ("epoch", True),
        ("epoch", "2"),
        ("snapshot", None),
        ("predecessor", 1),
        ("approvals", {}),
        ("approvals", [None] * 257),
        ("activated", "yesterday"),
        ("direction", "sideways"),
        ("proposer", 1),
        ("extra", 1),
    ],
    ids=str,
)
def test_refuses_an_activation_that_breaks_a_rule(world: Any, name: Any, value: Any) -> None:
    with pytest.raises(Problem) as caught:
        activation_from_json({**world.activation().to_json(), name: value})
    assert caught.value.code == "LM2420"


@given(st.binary(max_size=80) | st.sampled_from([b"{}", b"null", b'{"snapshot":1}']))
def test_a_signed_payload_of_any_bytes_is_an_approval_or_refused_with_a_code(releases: Any, payload: Any) -> None:
    envelope = dsse.sign(APPROVAL_TYPE, payload, [releases.keys["dana"]])
    with pytest.raises(Problem) as caught:
        check_approval(
            envelope,
            trust_domain=releases.trust_domain,
            snapshot="sha256:x",
            predecessor=None,
            judges=releases.judges,
            proposer=None,
            moment=releases.now,
        )
    assert caught.value.code == "LM2410"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trust_domain", "Corp"),
        ("expires", "2026"),
        ("predecessor", 1),
        ("snapshot", None),
        ("expires", "2027-01-01T00:00:00Z"),
    ],
    ids=str,
)
def test_refuses_a_signed_statement_that_breaks_a_rule(releases: Any, name: Any, value: Any) -> None:
    statement = {
        "trust_domain": "corp.test",
        "snapshot": "s",
        "predecessor": None,
        "expires": "2027-01-01T00:00:00.000000Z",
    }
    payload = json.dumps({**statement, name: value}, sort_keys=True, separators=(",", ":")).encode()
    envelope = dsse.sign(APPROVAL_TYPE, payload, [releases.keys["dana"]])
    with pytest.raises(Problem) as caught:
        check_approval(
            envelope,
            trust_domain=releases.trust_domain,
            snapshot="s",
            predecessor=None,
            judges=releases.judges,
            proposer=None,
            moment=releases.now,
        )
    assert caught.value.code == "LM2410"


def test_a_review_goes_the_main_way() -> None:
    state = State.PROPOSED
    for event in (Event.APPROVE, Event.SHADOW, Event.ACTIVATE, Event.SUPERSEDE, Event.RESTORE, Event.ROLL_BACK):
        state = next_state(state, event)
    assert state is State.ROLLED_BACK


@pytest.mark.parametrize(("state", "event"), sorted(set(itertools.product(State, Event)) - TRANSITIONS.keys()), ids=str)
def test_nothing_else_moves_a_review(state: Any, event: Any) -> None:
    with pytest.raises(Conflict) as caught:
        next_state(state, event)
    assert caught.value.code == "LM2423"


def test_nothing_becomes_active_but_from_approved_shadowed_or_superseded() -> None:
    ways = {state for (state, _), after in TRANSITIONS.items() if after is State.ACTIVE}
    assert ways == {State.APPROVED, State.SHADOWED, State.SUPERSEDED}
