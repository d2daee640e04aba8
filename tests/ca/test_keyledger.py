import datetime as dt
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy as sa

from ca.disksource import DiskKeys
from ca.keyledger import GRACE, LedgeredKeys
from ca.keys import KeyAlgorithm
from ca.keysource import DatabaseKeys, KeySource, MemoryKeys
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url
from mesh.problems import Conflict, Unavailable
from mesh.wrapping import WrappingKey

P256 = KeyAlgorithm.P256


@pytest.fixture
def clock(now: dt.datetime) -> ManualClock:
    return ManualClock(now)


@pytest.fixture
def memory() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def ledgered(memory: MemoryKeys, engine: sa.Engine, clock: ManualClock) -> LedgeredKeys:
    migrate(engine, "ca")
    return LedgeredKeys(memory, engine, clock)


def test_a_key_that_was_never_recorded_is_swept_when_it_is_old(ledgered: LedgeredKeys, clock: ManualClock) -> None:
    ledgered.new("a", P256)
    assert ledgered.sweep(()) == ()
    clock.advance(GRACE)
    assert ledgered.sweep(()) == ("a",)
    assert ledgered.names() == frozenset()
    assert ledgered.sweep(()) == ()


def test_a_key_that_was_recorded_stays_for_good(ledgered: LedgeredKeys, clock: ManualClock) -> None:
    ledgered.new("a", P256)
    assert ledgered.sweep({"a"}) == ()
    clock.advance(100 * GRACE)
    # even when the records no longer know it: a restored database does not know the newest keys
    assert ledgered.sweep(()) == ()
    assert ledgered.names() == {"a"}


def test_keys_that_were_not_begun_here_are_never_touched(
    ledgered: LedgeredKeys, memory: MemoryKeys, clock: ManualClock
) -> None:
    memory.new("somebody-elses", P256)
    with pytest.raises(Conflict, match="LM1601"):
        ledgered.new("somebody-elses", P256)
    clock.advance(100 * GRACE)
    assert ledgered.sweep(()) == ()
    assert ledgered.names() == {"somebody-elses"}


def test_a_deleted_key_leaves_the_ledger(ledgered: LedgeredKeys, memory: MemoryKeys, clock: ManualClock) -> None:
    ledgered.new("a", P256)
    ledgered.delete("a")
    memory.new("a", P256)
    clock.advance(100 * GRACE)
    assert ledgered.sweep(()) == ()


class Failing(MemoryKeys):
    """A source whose deletions fail until it is told otherwise."""

    fails = True

    def delete(self, name: str) -> None:
        if self.fails:
            raise Unavailable("LM1603", source="token", reason="it was pulled")
        super().delete(name)


def test_a_deletion_that_failed_is_done_later(engine: sa.Engine, clock: ManualClock) -> None:
    migrate(engine, "ca")
    source = Failing()
    ledgered = LedgeredKeys(source, engine, clock)
    ledgered.new("a", P256)
    ledgered.sweep({"a"})
    with pytest.raises(Unavailable):
        ledgered.delete("a")
    source.fails = False
    clock.advance(GRACE)
    assert ledgered.sweep(()) == ("a",)


def test_sources_of_one_database_do_not_sweep_each_other(
    ledgered: LedgeredKeys, engine: sa.Engine, wrapping: WrappingKey, clock: ManualClock
) -> None:
    other = LedgeredKeys(DatabaseKeys(engine, wrapping), engine, clock)
    other.new("a", P256)
    clock.advance(GRACE)
    assert ledgered.sweep(()) == ()
    assert other.names() == {"a"}
    assert (other.name, other.is_durable, ledgered.is_durable) == ("database", True, False)


CHILD = """
    import os, pathlib, signal, sys
    import datetime as dt
    from ca.disksource import DiskKeys
    from ca.keyledger import LedgeredKeys
    from ca.keys import KeyAlgorithm
    from ca.keysource import DatabaseKeys
    from mesh.clock import ManualClock
    from mesh.database import open_database, sqlite_url
    from mesh.wrapping import WrappingKey

    folder, kind, moment = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    engine = open_database(sqlite_url(folder / "ca.db"))
    wrapping = WrappingKey(b"w" * 32, beside_state=False)
    source = DatabaseKeys(engine, wrapping) if kind == "database" else DiskKeys(folder / "keys", wrapping)
    die = lambda *found: os.kill(os.getpid(), signal.SIGKILL)
    if moment == "before-key":
        source.new = die
    if moment == "half-written":
        os.fsync = die
    if moment == "before-delete":
        source.delete = die
    keys = LedgeredKeys(source, engine, ManualClock(dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)))
    keys.new("orphan", KeyAlgorithm.P256)
    if moment == "after-key":
        die()
    keys.delete("orphan")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        *((kind, moment) for kind in ("database", "disk") for moment in ("before-key", "after-key", "before-delete")),
        # SQLite does not ask Python to write
        ("disk", "half-written"),
    ],
)
def test_a_kill_at_any_moment_leaves_nothing_behind(
    tmp_path: pathlib.Path, wrapping: WrappingKey, clock: ManualClock, kind: str, moment: str
) -> None:
    engine = open_database(sqlite_url(tmp_path / "ca.db"))
    migrate(engine, "ca")
    child = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), kind, moment]
    assert subprocess.run(child, check=False, timeout=500).returncode == -signal.SIGKILL
    source: KeySource = DatabaseKeys(engine, wrapping) if kind == "database" else DiskKeys(tmp_path / "keys", wrapping)
    keys = LedgeredKeys(source, engine, clock)
    # nothing stands in the way of a restart
    keys.new("next", P256)
    clock.advance(GRACE)
    keys.sweep({"next"})
    assert keys.names() == {"next"}
    if kind == "disk":
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["next.key"]
    engine.dispose()
