import pathlib
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ca import store
from ca.keys import KeyAlgorithm, spki_der
from ca.keysource import DatabaseKeys, KeySource, MemoryKeys, check_name
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.problems import Conflict, Invalid, NotFound
from mesh.wrapping import WrappingKey


@pytest.fixture
def database(engine: sa.Engine, wrapping: WrappingKey) -> DatabaseKeys:
    migrate(engine, "ca")
    return DatabaseKeys(engine, wrapping)


@pytest.fixture(params=["database", "memory"])
def source(request: pytest.FixtureRequest) -> KeySource:
    if request.param == "memory":
        return MemoryKeys()
    found: DatabaseKeys = request.getfixturevalue("database")
    return found


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65]
)
def test_a_key_is_there_after_it_was_made(source: KeySource, algorithm: KeyAlgorithm) -> None:
    made = source.new("issuing-1", algorithm)
    assert made.algorithm is algorithm
    assert spki_der(source.load("issuing-1").public_key) == spki_der(made.public_key)
    assert source.names() == {"issuing-1"}


def test_a_name_is_never_used_twice(source: KeySource) -> None:
    made = source.new("a", KeyAlgorithm.P256)
    with pytest.raises(Conflict, match="LM1601"):
        source.new("a", KeyAlgorithm.P256)
    assert spki_der(source.load("a").public_key) == spki_der(made.public_key)


def test_a_key_that_was_deleted_is_gone_and_may_be_deleted_again(source: KeySource) -> None:
    source.new("a", KeyAlgorithm.P256)
    source.delete("a")
    source.delete("a")
    assert source.names() == frozenset()
    with pytest.raises(NotFound, match="LM1600"):
        source.load("a")


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "a/b", "..", "a\n", "ä", "a" * 65],
    ids=["empty", "upper", "hyphen", "slash", "dots", "newline", "umlaut", "long"],
)
@pytest.mark.parametrize("act", ["new", "load", "delete"])
def test_a_name_that_could_be_a_path_is_a_bug(source: KeySource, name: str, act: str) -> None:
    acts: dict[str, Callable[[], object]] = {
        "new": lambda: source.new(name, KeyAlgorithm.P256),
        "load": lambda: source.load(name),
        "delete": lambda: source.delete(name),
    }
    with pytest.raises(ValueError, match="a key's name"):
        acts[act]()


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True))
def test_a_name_in_the_alphabet_passes(name: str) -> None:
    assert check_name(name) == name


def test_keys_in_the_database_survive_the_process_and_are_wrapped(
    tmp_path: pathlib.Path, wrapping: WrappingKey
) -> None:
    url = sqlite_url(tmp_path / "keys.db")
    first = open_database(url)
    migrate(first, "ca")
    made = DatabaseKeys(first, wrapping).new("root-1", KeyAlgorithm.P256)
    first.dispose()
    plain = made.key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]  # a P-256 key
    assert plain not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    second = open_database(url)
    assert spki_der(DatabaseKeys(second, wrapping).load("root-1").public_key) == spki_der(made.public_key)
    second.dispose()


def test_another_wrapping_key_is_refused(engine: sa.Engine, database: DatabaseKeys) -> None:
    database.new("a", KeyAlgorithm.P256)
    with pytest.raises(Invalid, match="LM1201"):
        DatabaseKeys(engine, WrappingKey(b"x" * 32, beside_state=False)).load("a")


def test_one_wrapped_key_cannot_stand_in_for_another(engine: sa.Engine, database: DatabaseKeys) -> None:
    database.new("a", KeyAlgorithm.P256)
    with transaction(engine) as connection:
        wrapped = store.get_key(connection, "a")
        assert wrapped is not None
        store.put_key(connection, "b", wrapped)
    with pytest.raises(Invalid, match="LM1201"):
        database.load("b")


def test_wrapped_bytes_that_are_no_key_are_refused(
    engine: sa.Engine, database: DatabaseKeys, wrapping: WrappingKey
) -> None:
    with transaction(engine) as connection:
        store.put_key(connection, "a", wrapping.wrap("a", b"not a key", b"n" * 12))
    with pytest.raises(Invalid, match="LM1604"):
        database.load("a")


def test_memory_forgets() -> None:
    assert not MemoryKeys.is_durable
    MemoryKeys().new("a", KeyAlgorithm.P256)
    assert MemoryKeys().names() == frozenset()
