import datetime as dt

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ca import neighbours
from ca.authority import Authority
from ca.neighbours import Words, Work
from ca.slotstore import Live
from mesh.database import transaction
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState

WEEK = dt.timedelta(days=7)
moments = st.none() | st.datetimes(
    dt.datetime(2020, 1, 1),
    dt.datetime(2030, 1, 1),
    timezones=st.just(dt.UTC),
)
lives = st.builds(
    Live,
    certificates=st.integers(0, (1 << 53) - 1),
    identities=st.integers(0, (1 << 53) - 1),
    nodes=st.integers(0, (1 << 53) - 1),
    last_end=moments,
    last_issued=moments,
)
words = st.builds(
    Words,
    jwks=st.lists(st.text(max_size=20).map(str.encode), max_size=3).map(tuple),
    crls=st.lists(st.binary(max_size=20), max_size=3).map(tuple),
    works=st.lists(st.builds(Work, certificate=st.text(max_size=8), live=lives), max_size=3).map(tuple),
)


@given(words)
def test_words_are_read_as_they_were_written(found: Words) -> None:
    assert neighbours._read(neighbours._write(found)) == found


def test_one_that_was_removed_and_is_allowed_again_begins_anew(
    authority: Authority, engine: sa.Engine, now: dt.datetime
) -> None:
    with transaction(engine) as connection:
        neighbours.allow(connection, "eu", token="t1", life=WEEK, now=now)
        neighbours.hear(connection, "eu", Words(jwks=(b"{}",)), now)
        neighbours.remove(connection, "eu", now)
        found = neighbours.get_downstream(connection, "eu")
        assert found is not None
        assert (found.words, found.heard, found.removed, found.token) == (Words(), None, now, "")
        assert neighbours.of_token(connection, "") is None
        neighbours.allow(connection, "eu", token="t2", life=WEEK, now=now)
        again = neighbours.of_token(connection, "t2")
        assert again is not None
        assert again.removed is None
        assert neighbours.of_token(connection, "t1") is None


@pytest.mark.parametrize(("step", "is_new"), [(-1, False), (0, False), (1, True)])
def test_the_newest_word_of_the_server_above_stays(
    authority: Authority, engine: sa.Engine, domain: TrustDomain, step: int, is_new: bool
) -> None:
    import dataclasses

    def numbered(number: int) -> TrustState:
        state = authority.trust
        return dataclasses.replace(state, bundle=dataclasses.replace(state.bundle, sequence=number))

    with transaction(engine) as connection:
        assert neighbours.get_above(connection, domain) is None
        assert neighbours.put_above(connection, numbered(5), b"five")
        assert neighbours.put_above(connection, numbered(5 + step), b"other") is is_new
        kept = neighbours.get_above(connection, domain)
    assert kept is not None
    assert kept == (numbered(max(5, 5 + step)), b"other" if is_new else b"five")
