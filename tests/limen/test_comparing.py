import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest
import sqlalchemy as sa

from learner.drift import LISTS
from learner.store import read_drift
from limen import store
from limen.comparing import AGAIN_AFTER_S, LOOK_EVERY_S, Comparing
from limen.learned import Learned
from limen.learning import Learning
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, transaction
from mesh.flow import Flow
from mesh.spiffe import TrustDomain
from policyengine import store as policy_store
from policyengine.loader import load_text
from policyengine.review import Activation
from policyengine.snapshot import Snapshot
from tests.learner import worlds
from tests.learner.test_drift import TREE


class Beside:
    """A server's database with a learner, and what compares."""

    def __init__(self) -> None:
        self.engine = open_database("sqlite://")
        for room in ("limen", "learner", policy_store.ROOM):
            migrate(self.engine, room)
        self.clock = ManualClock(worlds.START + dt.timedelta(days=2))
        self.learning = Learning(self.engine, self.clock)
        self.comparing = Comparing(self.engine, self.clock)
        self._epoch = 0

    def learn(self, *flows: Flow) -> None:
        with transaction(self.engine) as connection:
            store.put_flows(connection, "n", [json.dumps(item.to_json()).encode() for item in flows])
        self.learning.step()

    def activate(self, text: str) -> str:
        self._epoch += 1
        policies, findings = load_text(text, "t")
        assert not findings
        release = Snapshot(trust_domain=TrustDomain("sim.test"), policies=policies, reviewer_set="sha256:" + "0" * 64)
        with transaction(self.engine) as connection:
            policy_store.put_snapshot(connection, release, self.clock.now())
            activation = Activation(
                epoch=self._epoch, snapshot=release.hash, predecessor=None, approvals=(), activated=self.clock.now()
            )
            policy_store.put_activation(connection, "r", activation)
        return release.hash

    def later(self, seconds: float) -> bool:
        """Whether it compares after so many seconds."""
        self.clock.advance(dt.timedelta(seconds=seconds))
        return self.comparing.step()

    @property
    def counts(self) -> dict[str, int]:
        with transaction(self.engine) as connection:
            found = read_drift(connection)
        assert found is not None
        return {name: count for name, count in found.counts.items() if count}


@pytest.fixture
def beside() -> Iterator[Beside]:
    found = Beside()
    yield found
    found.engine.dispose()


def call(path: str, hours: float = 0) -> Flow:
    return worlds.flow("web", "db", worlds.START + dt.timedelta(hours=hours), path=path)


def test_nothing_is_compared_before_a_release_is_active_and_something_was_learned(beside: Beside) -> None:
    assert not beside.comparing.step()
    beside.learn(call("/a"))
    assert not beside.later(LOOK_EVERY_S)
    with transaction(beside.engine) as connection:
        assert read_drift(connection) is None


def test_a_release_is_compared_at_once_and_again_when_more_was_learned_and_an_hour_is_over(beside: Beside) -> None:
    beside.learn(call("/a"), call("/other", 1))
    name = beside.activate(TREE)
    assert beside.later(LOOK_EVERY_S)
    assert beside.counts["new"] == 1
    # nothing new to look at, however late it is
    assert not beside.later(10 * AGAIN_AFTER_S)
    beside.learn(call("/another", 2))
    assert beside.later(LOOK_EVERY_S)
    assert beside.counts["new"] == 2
    beside.learn(call("/third", 3))
    assert not beside.later(AGAIN_AFTER_S - 2 * LOOK_EVERY_S)
    assert beside.later(2 * LOOK_EVERY_S)
    with transaction(beside.engine) as connection:
        found = read_drift(connection)
    assert found is not None
    assert (found.snapshot, found.at) == (name, beside.clock.now().timestamp())
    wider = TREE.replace('"/b"]', '"/b", "/other", "/another", "/third"]')
    assert beside.activate(wider) != name
    assert not beside.later(LOOK_EVERY_S / 2)
    assert beside.later(LOOK_EVERY_S)
    assert "new" not in beside.counts


def test_another_process_does_not_compare_what_was_compared(beside: Beside) -> None:
    beside.learn(call("/a"))
    beside.activate(TREE)
    assert beside.later(LOOK_EVERY_S)
    assert not Comparing(beside.engine, beside.clock).step()


def test_who_asks_the_server_and_its_metrics_are_told(beside: Beside) -> None:
    learned = Learned(beside.engine)
    assert learned.standing()["drift"] is None
    beside.learn(call("/a"), call("/other", 1))
    name = beside.activate(TREE)
    beside.later(LOOK_EVERY_S)
    found: Any = learned.standing()["drift"]
    assert found["snapshot"] == name
    assert set(found["counts"]) == set(LISTS)
    assert learned.measure()
    assert prometheus_client.REGISTRY.get_sample_value("limen_learner_drift", {"kind": "new"}) == 1


def test_a_release_that_cannot_be_read_keeps_nobody_from_learning(beside: Beside) -> None:
    beside.learn(call("/a"))
    name = beside.activate(TREE)
    with transaction(beside.engine) as connection:
        policies = policy_store.SNAPSHOTS
        connection.execute(sa.update(policies).where(policies.c.hash == name).values(content=b"{}"))
    assert not beside.later(LOOK_EVERY_S)
    beside.learn(call("/b", 1))
    with transaction(beside.engine) as connection:
        assert read_drift(connection) is None
