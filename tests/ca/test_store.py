import datetime as dt
import pathlib
import threading

import pytest
import sqlalchemy as sa

from ca import store
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.problems import Conflict

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def ready(engine: sa.Engine) -> sa.Engine:
    migrate(engine, "ca")
    return engine


def issuance(serial: str, now: dt.datetime, life: dt.timedelta = HOUR) -> store.Issuance:
    return store.Issuance(
        serial=serial, spiffe_id="spiffe://corp.test/a", node="n1", rule="r1", issued=now, not_after=now + life
    )


def test_keys_and_authorities_read_back(ready: sa.Engine) -> None:
    with transaction(ready) as connection:
        assert store.get_key(connection, "root") is None
        assert store.get_authority(connection, "root") is None
        store.put_key(connection, "root", b"wrapped")
        store.put_authority(connection, "root", "active", b"chain")
    with transaction(ready) as connection:
        assert store.get_key(connection, "root") == b"wrapped"
        assert store.get_authority(connection, "root") == ("active", b"chain")


def test_a_serial_number_is_recorded_once(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        store.record_issuance(connection, issuance("ab", now))
    with pytest.raises(Conflict, match="LM1205"), transaction(ready) as connection:
        store.record_issuance(connection, issuance("ab", now + HOUR))


def test_what_is_valid_now_is_listed_newest_first(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        for number in range(3):
            store.record_issuance(connection, issuance(f"{number}", now + number * HOUR))
        found = store.valid_issuances(connection, now + HOUR)
    assert [item.serial for item in found] == ["2", "1"]
    assert found[1] == issuance("1", now + HOUR)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(dt.timedelta(0), True, id="at-once"),
        pytest.param(HOUR - dt.timedelta(microseconds=1), True, id="just-before-its-end"),
        pytest.param(HOUR, False, id="at-its-end"),
        pytest.param(2 * HOUR, False, id="after-its-end"),
    ],
)
def test_a_token_is_used_until_it_expires(
    ready: sa.Engine, now: dt.datetime, after: dt.timedelta, *, expected: bool
) -> None:
    with transaction(ready) as connection:
        store.put_token(connection, "t", now + HOUR)
        assert store.use_token(connection, "t", now + after) is expected
        assert store.use_token(connection, "t", now) is not expected


def test_an_unknown_token_is_of_no_use(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        assert not store.use_token(connection, "t", now)


def test_one_of_many_who_use_a_token_at_once_wins(ready: sa.Engine, tmp_path: pathlib.Path, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        store.put_token(connection, "t", now + HOUR)
    won: list[bool] = []
    start = threading.Barrier(6)

    def use() -> None:
        engine = open_database(sqlite_url(tmp_path / "ca.db"))
        start.wait()
        with transaction(engine) as connection:
            won.append(store.use_token(connection, "t", now))
        engine.dispose()

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_a_node_is_known_once_it_joined(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        assert not store.has_node(connection, "n1")
        store.put_node(connection, "n1", "ab" * 32, now)
        assert store.has_node(connection, "n1")
        assert not store.has_node(connection, "N1")
