"""What the migrations of a room do to a database that has none of it: done once in a process, then said again.

A thousand tests open a new state. Alembic would work out the same statements for each; these are the very ones that
`mesh.database.migrate` sent to a database in memory, and whatever has some of the room's tables goes to it unchanged.
"""

import functools
from typing import Any

import sqlalchemy as sa

import mesh.database

really = mesh.database.migrate


@functools.cache
def statements(room: str) -> tuple[tuple[str, Any], ...]:
    """What a room's migrations write, statement by statement."""
    found: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        if not statement.startswith(("SELECT", "PRAGMA", "BEGIN")):
            found.append((statement, parameters))

    engine = mesh.database.open_database("sqlite://")
    sa.event.listen(engine, "before_cursor_execute", note)
    really(engine, room)
    engine.dispose()
    return tuple(found)


def _has_any(connection: sa.Connection, room: str) -> bool:
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'limen_migrations'").all()
    if not tables:
        return False
    return bool(connection.exec_driver_sql("SELECT name FROM limen_migrations WHERE room = ?", (room,)).first())


def migrate(engine: sa.Engine, room: str) -> None:
    """As `mesh.database.migrate`."""
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            if not _has_any(connection, room):
                for statement, parameters in statements(room):
                    connection.exec_driver_sql(statement, parameters)
                return
    really(engine, room)
