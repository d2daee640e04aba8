import datetime as dt

import pytest
import sqlalchemy as sa

from ca import store
from mesh.database import migrate, transaction
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


def test_a_names_svids_that_live_are_found_by_an_index_and_a_serial_numbers_whatever_their_age(
    ready: sa.Engine, now: dt.datetime
) -> None:
    name = "spiffe://corp.test/a"
    with transaction(ready) as connection:
        store.record_issuances(
            connection,
            [issuance(f"{number}", now + number * HOUR) for number in range(3)]
            + [issuance("9", now + 2 * HOUR)._replace(spiffe_id="spiffe://corp.test/b")],
        )
        assert [item.serial for item in store.find_issuances(connection, name, now + HOUR)] == ["2", "1"]
        assert [item.serial for item in store.find_issuances(connection, "0", now + HOUR)] == ["0"]
        plan = connection.execute(
            sa.text("EXPLAIN QUERY PLAN SELECT * FROM ca_issued WHERE spiffe_id = :name AND not_after > :now"),
            {"name": name, "now": "2026"},
        ).all()
    assert "ca_issued_live" in str(plan)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_a_batch_of_any_size_is_recorded_as_it_is_and_all_or_none(
    ready: sa.Engine, now: dt.datetime, count: int
) -> None:
    made = [issuance(f"{place:x}", now, HOUR + dt.timedelta(seconds=place)) for place in range(count)]
    with transaction(ready) as connection:
        store.record_issuances(connection, [])
        store.record_issuances(connection, made)
        assert sorted(store.valid_issuances(connection, now)) == sorted(made)
    again = [issuance(f"n{place}", now) for place in range(count)] + [made[-1]]
    with pytest.raises(Conflict, match="LM1205"), transaction(ready) as connection:
        store.record_issuances(connection, again)
    with transaction(ready) as connection:
        assert len(store.valid_issuances(connection, now)) == count
