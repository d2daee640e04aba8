import pathlib

import pytest
import sqlalchemy as sa

from mesh.database import open_database, sqlite_url, transaction
from mesh.problems import Invalid
from tests import migrated

migrate = migrated.really  # not what most tests open their states with


def test_a_transaction_is_all_or_nothing(tmp_path: pathlib.Path) -> None:
    engine = open_database(sqlite_url(tmp_path / "x.sqlite"))
    with transaction(engine) as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
    with pytest.raises(ZeroDivisionError), transaction(engine) as connection:
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        _ = 1 / 0
    with transaction(engine) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM t")).scalar() == 0
    engine.dispose()


def test_sqlite_is_durable_and_checks_its_keys(tmp_path: pathlib.Path) -> None:
    engine = open_database(sqlite_url(tmp_path / "x.sqlite"))
    with transaction(engine) as connection:
        values = [connection.execute(sa.text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
        assert values == ["wal", 2]
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()


@pytest.mark.parametrize("room", ["ca", "policyengine", "limen"])
def test_migrations_run_once(room: str) -> None:
    engine = open_database("sqlite://")
    migrate(engine, room)
    migrate(engine, room)
    with transaction(engine) as connection:
        rows = connection.execute(sa.text("SELECT room, name FROM limen_migrations")).all()
    assert {row[0] for row in rows} == {room}
    assert len(set(rows)) == len(rows)
    engine.dispose()


@pytest.mark.parametrize("begun", [False, True], ids=["empty", "begun"])
def test_tests_open_states_with_what_migrations_make(begun: bool) -> None:
    found = []
    for way in (migrate, migrated.migrate):
        engine = open_database("sqlite://")
        if begun:
            migrate(engine, "ca")
        for room in ("ca", "policyengine", "limen", "limen"):
            way(engine, room)
        with transaction(engine) as connection:
            tables = connection.execute(sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master")).all()
            ran = connection.execute(sa.text("SELECT room, name FROM limen_migrations")).all()
        found.append(({tuple(row) for row in tables}, {tuple(row) for row in ran}))
        engine.dispose()
    assert found[0] == found[1]


def test_other_databases_are_refused() -> None:
    with pytest.raises(Invalid, match="LM5003"):
        open_database("mysql://x/y")
