import dataclasses
import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from mesh.database import migrate, open_database
from mesh.problems import Conflict, Problem
from policyengine import reviewing, store
from policyengine.model import Invariant, Principal
from policyengine.review import State, activation_from_json, verify_activation
from policyengine.reviewers import sign_set

DAY = dt.timedelta(days=1)


class House:
    """A server's review service with three reviewers of which two are needed, and agents that check it."""

    def __init__(self, releases: Any, connection: sa.Connection) -> None:
        self.releases = releases
        self.connection = connection
        self.now = releases.now
        self._count = 0
        reviewing.begin(connection, releases.judges)

    def propose(self, *callers: str, **fields: Any) -> Any:
        self._count += 1
        current = reviewing.active(self.connection)
        standard = {
            "policies": self.releases.snapshot(*callers).policies,
            "trust_domain": self.releases.trust_domain,
            "predecessor": None if current is None else current[1].hash,
            "now": self.now,
            "random": bytes([self._count]) * 10,
        }
        return reviewing.propose(self.connection, **{**standard, **fields})

    def approve(self, review: Any, *names: str) -> Any:
        for name in names:
            envelope = self.releases.approve(name, review.snapshot, review.predecessor, expires=self.now + DAY)
            review = reviewing.approve(self.connection, review.id, envelope, now=self.now)
        return review

    def publish(self, *callers: str) -> Any:
        review = self.approve(self.propose(*callers), "dana", "olga")
        reviewing.activate(self.connection, review.id, now=self.now)
        return store.get_review(self.connection, review.id)

    def state(self, review: Any) -> State:
        return store.get_review(self.connection, review.id).state

    def refusal(self, act: Any, review: Any) -> str:
        with pytest.raises(Problem) as caught:
            act(self.connection, review.id, now=self.now)
        return caught.value.code


@pytest.fixture
def house(releases: Any) -> Any:
    engine = open_database("sqlite://")
    migrate(engine, store.ROOM)
    with engine.begin() as connection:
        yield House(releases, connection)
    engine.dispose()


def test_a_change_goes_from_proposal_to_active(house: Any) -> None:
    review = house.propose("cart", note="carts may call")
    assert review.state is State.PROPOSED
    assert house.approve(review, "dana").state is State.PROPOSED
    assert house.approve(review, "olga").state is State.APPROVED
    assert reviewing.shadow(house.connection, review.id, now=house.now).state is State.SHADOWED
    assert reviewing.candidate(house.connection).hash == review.snapshot
    activation = reviewing.activate(house.connection, review.id, now=house.now)
    assert house.state(review) is State.ACTIVE
    assert activation.epoch == 1
    found, snapshot = reviewing.active(house.connection)
    assert (found, snapshot.hash) == (activation, review.snapshot)
    assert reviewing.candidate(house.connection) is None


def test_the_review_before_is_superseded_and_epochs_grow(house: Any) -> None:
    first = house.publish("cart")
    second = house.publish("cart", "batch")
    assert (house.state(first), house.state(second)) == (State.SUPERSEDED, State.ACTIVE)
    assert [found.epoch for found in store.activations_after(house.connection, 0)] == [1, 2]
    assert [found.epoch for found in store.activations_after(house.connection, 1)] == [2]


def test_an_agent_accepts_every_activation_in_turn(house: Any) -> None:
    house.publish("cart")
    latest = house.publish("cart", "batch")
    reviewing.rollback(house.connection, latest.id, now=house.now)
    pinned, chain = reviewing.chain_of(house.connection)
    running, epoch = None, 0
    for sent in store.activations_after(house.connection, 0):
        activation = activation_from_json(sent.to_json())
        proposed = store.get_snapshot(house.connection, activation.snapshot)
        verify_activation(
            activation,
            reviewer_sets=chain,
            pinned_set_hash=pinned,
            active=running,
            proposed=proposed,
            highest_epoch=epoch,
            now=house.now,
        )
        running, epoch = proposed, activation.epoch
    assert epoch == 3
    assert running == reviewing.active(house.connection)[1]


def test_refuses_activation_below_the_threshold(house: Any) -> None:
    review = house.approve(house.propose("cart"), "dana")
    assert house.refusal(reviewing.activate, review) == "LM2416"


def test_refuses_activation_without_the_called_services_owner(house: Any) -> None:
    house.publish("cart")
    review = house.approve(house.propose("cart", "batch"), "wim", "olga")
    assert review.state is State.PROPOSED
    assert house.refusal(reviewing.activate, review) == "LM2417"
    assert house.approve(review, "dana").state is State.APPROVED


def test_refuses_activation_with_approvals_that_expired_meanwhile(house: Any) -> None:
    review = house.approve(house.propose("cart"), "dana", "olga")
    house.now += 2 * DAY
    assert house.refusal(reviewing.activate, review) == "LM2414"


def test_refuses_activation_after_another_release(house: Any) -> None:
    late = house.approve(house.propose("front"), "dana", "olga")
    house.publish("cart")
    assert house.refusal(reviewing.activate, late) == "LM2428"
    assert house.refusal(reviewing.shadow, late) == "LM2428"
    with pytest.raises(Problem) as caught:
        house.approve(late, "wim")
    assert caught.value.code == "LM2428"


def test_takes_no_approval_twice(house: Any) -> None:
    review = house.approve(house.propose("cart"), "dana")
    with pytest.raises(Problem) as caught:
        house.approve(review, "dana")
    assert caught.value.code == "LM2427"


def test_takes_no_approval_of_the_proposer(house: Any) -> None:
    dana = house.releases.judges.reviewers[0].key_id
    review = house.propose("cart", proposer=dana)
    with pytest.raises(Problem) as caught:
        house.approve(review, "dana")
    assert caught.value.code == "LM2418"


def test_takes_no_approval_by_a_stranger(house: Any) -> None:
    with pytest.raises(Problem) as caught:
        house.approve(house.propose("cart"), "mallory")
    assert caught.value.code == "LM2415"


def test_A51_takes_no_approval_of_other_content(house: Any) -> None:
    one, other = house.propose("cart"), house.propose("mallory")
    envelope = house.releases.approve("dana", one.snapshot, None)
    with pytest.raises(Problem) as caught:
        reviewing.approve(house.connection, other.id, envelope, now=house.now)
    assert caught.value.code == "LM2412"


def test_rolls_back_to_the_release_before(house: Any) -> None:
    first = house.publish("cart")
    second = house.publish("cart", "batch")
    activation = reviewing.rollback(house.connection, second.id, now=house.now)
    assert (activation.epoch, activation.direction, activation.snapshot) == (3, "rollback", first.snapshot)
    assert (house.state(first), house.state(second)) == (State.ACTIVE, State.ROLLED_BACK)
    assert reviewing.active(house.connection)[1].hash == first.snapshot
    assert house.refusal(reviewing.activate, second) == "LM2423"


def test_goes_on_after_a_roll_back(house: Any) -> None:
    house.publish("cart")
    reviewing.rollback(house.connection, house.publish("cart", "batch").id, now=house.now)
    third = house.publish("cart", "front")
    assert reviewing.active(house.connection)[0].epoch == 4
    assert house.state(third) is State.ACTIVE


@pytest.mark.parametrize("which", ["superseded", "proposed"])
def test_rolls_back_nothing_but_the_active_release(house: Any, which: str) -> None:
    first = house.publish("cart")
    house.publish("cart", "batch")
    review = first if which == "superseded" else house.propose("front")
    assert house.refusal(reviewing.rollback, review) == "LM2423"


def test_there_is_no_way_back_from_the_first_release(house: Any) -> None:
    assert house.refusal(reviewing.rollback, house.publish("cart")) == "LM2426"


def test_rejects_for_good(house: Any) -> None:
    review = house.propose("cart")
    assert reviewing.reject(house.connection, review.id, now=house.now).state is State.REJECTED
    for act in (reviewing.activate, reviewing.shadow, reviewing.reject):
        assert house.refusal(act, review) == "LM2423"
    with pytest.raises(Problem) as caught:
        house.approve(review, "dana")
    assert caught.value.code == "LM2423"


def test_refuses_a_proposal_on_another_release(house: Any) -> None:
    house.publish("cart")
    with pytest.raises(Problem) as caught:
        house.propose("front", predecessor=None)
    assert caught.value.code == "LM2428"


def test_refuses_a_proposal_that_changes_nothing(house: Any) -> None:
    house.publish("cart")
    with pytest.raises(Problem) as caught:
        house.propose("cart")
    assert caught.value.code == "LM2429"


def test_refuses_a_note_without_end(house: Any) -> None:
    with pytest.raises(Problem) as caught:
        house.propose("cart", note="x" * 10_001)
    assert caught.value.code == "LM2433"


def test_begins_once(house: Any) -> None:
    reviewing.begin(house.connection, house.releases.judges)
    usurped = dataclasses.replace(house.releases.judges, threshold=1)
    with pytest.raises(Problem) as caught:
        reviewing.begin(house.connection, usurped)
    assert caught.value.code == "LM2405"


def second_version(house: Any, *names: str, **fields: Any) -> Any:
    judges = house.releases.judges
    proposed = dataclasses.replace(judges, version=2, previous=judges.hash, **fields)
    return sign_set(proposed, [house.releases.keys[name] for name in names])


def test_a_signed_successor_judges_from_then_on(house: Any) -> None:
    review = house.approve(house.propose("cart"), "dana", "olga")
    reviewing.extend(house.connection, second_version(house, "dana", "wim", threshold=3))
    assert reviewing.judges_of(house.connection).version == 2
    assert house.refusal(reviewing.activate, review) == "LM2416"
    house.approve(review, "wim")
    reviewing.activate(house.connection, review.id, now=house.now)
    # the next release names the newer set, and an unchanged tree is still no change
    with pytest.raises(Problem) as caught:
        house.propose("cart")
    assert caught.value.code == "LM2429"


def test_an_unsigned_successor_is_refused(house: Any) -> None:
    with pytest.raises(Problem) as caught:
        reviewing.extend(house.connection, second_version(house, "mallory", threshold=1))
    assert caught.value.code == "LM2404"


def test_a_first_set_is_a_first_version(releases: Any) -> None:
    engine = open_database("sqlite://")
    migrate(engine, store.ROOM)
    with engine.begin() as connection:
        with pytest.raises(Problem) as caught:
            reviewing.judges_of(connection)
        assert caught.value.code == "LM2431"
        second = dataclasses.replace(releases.judges, version=2, previous=releases.judges.hash)
        with pytest.raises(Problem) as caught:
            reviewing.begin(connection, second)
        assert caught.value.code == "LM2405"
    engine.dispose()


def test_one_local_key_publishes_alone(releases: Any) -> None:
    engine = open_database("sqlite://")
    migrate(engine, store.ROOM)
    key = releases.keys["olga"]
    with engine.begin() as connection:
        reviewing.begin(connection, reviewing.local_set(releases.trust_domain, key))
        for number, callers in enumerate([("cart",), ("cart", "batch")]):
            running = reviewing.active(connection)
            predecessor = None if running is None else running[1].hash
            review = reviewing.propose(
                connection,
                policies=releases.snapshot(*callers).policies,
                trust_domain=releases.trust_domain,
                predecessor=predecessor,
                now=releases.now,
                random=bytes([number]) * 10,
            )
            envelope = releases.approve("olga", review.snapshot, predecessor)
            assert reviewing.approve(connection, review.id, envelope, now=releases.now).state is State.APPROVED
            reviewing.activate(connection, review.id, now=releases.now)
        assert reviewing.active(connection)[0].epoch == 2
    engine.dispose()


def test_describes_a_review_with_whose_approval_it_needs(house: Any) -> None:
    house.publish("cart")
    review = house.approve(house.propose("cart", "batch"), "olga")
    found = reviewing.describe(house.connection, review)
    assert found["owners"] == {"team-data": ["db"]}
    assert found["threshold"] == 2
    assert [approval["name"] for approval in found["approvals"]] == ["olga"]  # type: ignore[attr-defined]
    assert found["state"] == "proposed"


def test_describes_the_reviewers_with_their_chain(house: Any) -> None:
    found = reviewing.describe_reviewers(house.connection)
    assert found["hash"] == found["first"] == house.releases.judges.hash
    assert [reviewer["name"] for reviewer in found["reviewers"]] == ["dana", "wim", "olga"]  # type: ignore[attr-defined]
    assert len(found["chain"]) == 1  # type: ignore[arg-type]


def test_a_release_that_breaks_its_own_invariant_is_not_put_up_for_approval(house: Any) -> None:
    policies = house.releases.snapshot("cart").policies
    (service, *_) = policies.services
    allowed = policies.policies[0].rules[0].from_
    forbidden = Invariant(name="no-carts", owner="", service=service.name, from_=allowed)
    with pytest.raises(Conflict) as caught:
        house.propose("cart", policies=dataclasses.replace(policies, invariants=(forbidden,)))
    assert caught.value.code == "LM2441"
    assert "no-carts" in str(caught.value)
    held = dataclasses.replace(forbidden, from_=(Principal.parse("spiffe://elsewhere.test/**"),))
    assert house.propose("cart", policies=dataclasses.replace(policies, invariants=(held,))).state is State.PROPOSED
