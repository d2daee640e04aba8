import datetime as dt
from typing import Any

import pytest

from audit.record import record, to_bytes
from limen.releases import approvals_of, in_force, releases_in
from mesh.problems import NotFound
from tests.audit.making import START, make

SECOND = dt.timedelta(seconds=1)


def activated(number: int, snapshot: str, *, source: str = "server:t", **fields: Any) -> tuple[int, bytes]:
    known = {"event": "activate", "review": f"r{number}", "snapshot": snapshot, "epoch": number} | fields
    random = number.to_bytes(10, "big")
    made = record("snapshot", now=START + number * SECOND, random=random, source=source, **known)
    return number, to_bytes(made)


LOG = [
    (0, make(0)),
    activated(10, "a"),
    activated(15, "forged", source="spiffe://t/limen/agent/x"),
    activated(20, "b"),
    activated(30, "a", event="rollback"),
]


@pytest.mark.parametrize(("second", "snapshot"), [(10, "a"), (19, "a"), (20, "b"), (29, "b"), (30, "a"), (99, "a")])
def test_what_was_in_force_is_the_last_activation_before(second: int, snapshot: str) -> None:
    assert in_force(releases_in(LOG), START + second * SECOND).snapshot == snapshot


def test_before_the_first_activation_nothing_was() -> None:
    with pytest.raises(NotFound) as caught:
        in_force(releases_in(LOG), START + 9 * SECOND)
    assert caught.value.code == "LM6095"


def test_an_approval_is_that_of_the_release_s_own_review_first() -> None:
    reviews = [
        {"id": "r1", "snapshot": "b", "approvals": ["other"]},
        {"id": "r20", "snapshot": "b", "approvals": ["own"]},
        {"id": "r10", "snapshot": "a", "approvals": ["none of it"]},
    ]
    assert approvals_of(reviews, in_force(releases_in(LOG), START + 20 * SECOND)) == ["own", "other"]
