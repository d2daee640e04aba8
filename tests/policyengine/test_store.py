from typing import Any

import pytest
import sqlalchemy as sa

from mesh.database import migrate, open_database
from mesh.problems import Problem
from policyengine import store
from policyengine.review import State
from policyengine.store import Review, StoredApproval


@pytest.fixture
def connection() -> Any:
    engine = open_database("sqlite://")
    migrate(engine, store.ROOM)
    with engine.begin() as found:
        yield found
    engine.dispose()


def review(releases: Any, **fields: Any) -> Review:
    standard = {
        "id": "0" * 26,
        "snapshot": "sha256:a",
        "predecessor": None,
        "proposer": None,
        "note": "why",
        "state": State.PROPOSED,
        "created": releases.now,
        "changed": releases.now,
    }
    return Review(**{**standard, **fields})


def refusal(act: Any) -> str:
    with pytest.raises(Problem) as caught:
        act()
    return caught.value.code


def test_migrates_to_the_tables_that_the_code_names(connection: Any) -> None:
    found = sa.inspect(connection)
    for table in (store.SNAPSHOTS, store.REVIEWS, store.APPROVALS, store.ACTIVATIONS, store.REVIEWER_SETS):
        assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys())


def test_keeps_a_snapshot_once(connection: Any, releases: Any) -> None:
    snapshot = releases.snapshot("cart")
    for _ in range(2):
        store.put_snapshot(connection, snapshot, releases.now)
    assert store.get_snapshot(connection, snapshot.hash) == snapshot
    assert refusal(lambda: store.get_snapshot(connection, "sha256:no")) == "LM2425"


def test_notices_content_that_was_changed_in_the_database(connection: Any, releases: Any) -> None:
    snapshot, other = releases.snapshot("cart"), releases.snapshot("mallory")
    store.put_snapshot(connection, snapshot, releases.now)
    connection.execute(sa.update(store.SNAPSHOTS).values(content=other.to_bytes()))
    assert refusal(lambda: store.get_snapshot(connection, snapshot.hash)) == "LM2402"


def test_keeps_reviews_newest_first(connection: Any, releases: Any) -> None:
    old, new = review(releases), review(releases, id="1" * 26, predecessor="sha256:b", proposer="sha256:k")
    for found in (old, new):
        store.put_review(connection, found)
    assert store.list_reviews(connection) == [new, old]
    assert store.get_review(connection, old.id) == old
    assert refusal(lambda: store.get_review(connection, "2" * 26)) == "LM2424"


def test_moves_a_review_only_from_the_state_it_was_read_in(connection: Any, releases: Any) -> None:
    found = review(releases)
    store.put_review(connection, found)
    store.move_review(connection, found.id, State.PROPOSED, State.REJECTED, releases.now)
    assert store.get_review(connection, found.id).state is State.REJECTED
    assert (
        refusal(lambda: store.move_review(connection, found.id, State.PROPOSED, State.APPROVED, releases.now))
        == "LM2423"
    )


def test_keeps_an_approval_of_a_key_once(connection: Any, releases: Any) -> None:
    store.put_review(connection, review(releases))
    envelope = releases.approve("dana", "sha256:a", None)
    approval = StoredApproval(key_id="sha256:k", name="dana", envelope=envelope, time=releases.now)
    store.put_approval(connection, "0" * 26, approval)
    assert store.get_review(connection, "0" * 26).approvals == (approval,)
    assert store.get_review(connection, "0" * 26).envelopes == (envelope,)
    assert refusal(lambda: store.put_approval(connection, "0" * 26, approval)) == "LM2427"


def test_keeps_an_activation_of_an_epoch_once(connection: Any, releases: Any) -> None:
    assert store.latest_activation(connection) is None
    snapshot = releases.snapshot("cart")
    activation = releases.activation(snapshot, None, [releases.approve("dana", snapshot.hash, None)])
    store.put_activation(connection, "0" * 26, activation)
    assert store.latest_activation(connection) == (activation, "0" * 26)
    assert refusal(lambda: store.put_activation(connection, "0" * 26, activation)) == "LM2419"


def test_keeps_a_version_of_the_reviewer_set_once(connection: Any, releases: Any) -> None:
    (envelope,) = releases.chain
    store.put_reviewer_set(connection, 1, releases.judges.hash, envelope)
    assert store.reviewer_chain(connection) == ((releases.judges.hash, envelope),)
    assert refusal(lambda: store.put_reviewer_set(connection, 1, "sha256:x", envelope)) == "LM2405"
