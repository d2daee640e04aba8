"""The one way to a database: SQLite by default, PostgreSQL by URL; rooms bring their own tables and migrations.

SQLite runs in WAL mode with full synchronisation: a committed transaction survives kill -9 and loss of power.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.pool import StaticPool

from mesh.problems import Invalid

BUSY_TIMEOUT_MS = 10_000
_MIGRATIONS = (
    "CREATE TABLE IF NOT EXISTS limen_migrations (room VARCHAR(40), name VARCHAR(120), PRIMARY KEY (room, name))"
)


def sqlite_url(path: pathlib.Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def open_database(url: str) -> sa.Engine:
    """Open a database.

    Raises Invalid LM5003 for a URL that is neither SQLite nor PostgreSQL.
    """
    if url.startswith("sqlite"):
        # an in-memory database lives as long as its one connection
        extra: dict[str, Any] = {"poolclass": StaticPool} if url in {"sqlite://", "sqlite:///:memory:"} else {}
        engine = sa.create_engine(url, connect_args={"check_same_thread": False}, **extra)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediate)
        return engine
    if url.startswith("postgresql"):
        return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_pre_ping=True)
    raise Invalid("LM5003", scheme=url.partition(":")[0])


def _configure_sqlite(connection: Any, record: object) -> None:  # noqa: ANN401  a DB-API connection
    del record
    # SQLAlchemy, not the driver, begins transactions: see `_begin_immediate`
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # take the write lock at once: two writers that upgrade later would deadlock
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction: committed at the end, rolled back by any exception."""
    with engine.begin() as connection:
        yield connection


def migrate(engine: sa.Engine, room: str) -> None:
    """Bring a room's tables to their newest form: the modules `ROOM.migrations.mNNNN_*`, in order, each once.

    A migration has `upgrade(op)`, written with Alembic's operations. What ran stands in the table
    ``limen_migrations``.
    """
    package = importlib.import_module(f"{room}.migrations")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.name.startswith("m"))
    with engine.begin() as connection:
        connection.execute(sa.text(_MIGRATIONS))
        rows = connection.execute(sa.text("SELECT name FROM limen_migrations WHERE room = :room"), {"room": room})
        done = {str(row[0]) for row in rows}
        operations = Operations(MigrationContext.configure(connection))
        for name in names:
            if name in done:
                continue
            importlib.import_module(f"{room}.migrations.{name}").upgrade(operations)
            connection.execute(
                sa.text("INSERT INTO limen_migrations (room, name) VALUES (:room, :name)"), {"room": room, "name": name}
            )
