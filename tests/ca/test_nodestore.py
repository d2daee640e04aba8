"""The tables of nodes: tokens that one key uses, keys that prove, bans."""

import datetime as dt
import pathlib
import threading

import pytest
import sqlalchemy as sa

from ca import nodestore
from mesh.database import migrate, open_database, sqlite_url, transaction

HOUR = dt.timedelta(hours=1)
KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def ready(engine: sa.Engine) -> sa.Engine:
    migrate(engine, "ca")
    return engine


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
        nodestore.put_token(connection, "t", now + HOUR)
        assert nodestore.use_token(connection, "t", KEY, now + after) is expected
        assert nodestore.use_token(connection, "t", OTHER, now) is not expected


def test_an_unknown_token_is_of_no_use(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        assert not nodestore.use_token(connection, "t", KEY, now)


def test_one_of_many_who_use_a_token_at_once_wins(ready: sa.Engine, tmp_path: pathlib.Path, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        nodestore.put_token(connection, "t", now + HOUR)
    won: list[bool] = []
    start = threading.Barrier(6)

    def use(key: str) -> None:
        engine = open_database(sqlite_url(tmp_path / "ca.db"))
        start.wait()
        with transaction(engine) as connection:
            won.append(nodestore.use_token(connection, "t", key, now))
        engine.dispose()

    threads = [threading.Thread(target=use, args=(f"{number:064x}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_the_key_that_used_a_token_may_ask_again_until_it_expires(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        nodestore.put_token(connection, "t", now + HOUR)
        assert nodestore.use_token(connection, "t", KEY, now)
        assert nodestore.use_token(connection, "t", KEY, now)
        assert not nodestore.use_token(connection, "t", OTHER, now)
        assert not nodestore.use_token(connection, "t", KEY, now + HOUR)


def test_a_node_keeps_its_present_and_the_key_it_proved(ready: sa.Engine, now: dt.datetime) -> None:
    facts = (("node:x", "1"), ("node:x", "2"))
    with transaction(ready) as connection:
        assert nodestore.get_node(connection, "n") is None
        assert nodestore.admit_node(connection, "n", attestor="vm", facts=facts, spki_sha256="k0", now=now)
        nodestore.renew_node(connection, "n", proven="k0", spki_sha256="k1", now=now)
        # killed before it had k1's certificate, it proves k0 again
        nodestore.renew_node(connection, "n", proven="k0", spki_sha256="k2", now=now)
        found = nodestore.get_node(connection, "n")
        assert found is not None
        assert (found.spki_sha256, found.previous_sha256, found.facts) == ("k2", "k0", facts)
        assert not nodestore.admit_node(connection, "n", attestor="vm", facts=(), spki_sha256="k3", now=now)
        found = nodestore.get_node(connection, "n")
        assert found is not None
        # attested anew, no older key is worth anything
        assert {found.spki_sha256, found.previous_sha256} == {"k3"}


def test_a_ban_outlives_a_new_attestation(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        nodestore.admit_node(connection, "n", attestor="vm", facts=(), spki_sha256="k", now=now)
        nodestore.set_ban(connection, "n", now, "stolen")
        nodestore.admit_node(connection, "n", attestor="vm", facts=(), spki_sha256="k2", now=now)
        (found,) = nodestore.list_nodes(connection)
        assert (found.banned, found.ban_reason) == (now, "stolen")
        nodestore.set_ban(connection, "n", None, "")
        assert nodestore.list_nodes(connection)[0].banned is None


def test_a_proof_belongs_to_the_first_key_until_it_expires(ready: sa.Engine, now: dt.datetime) -> None:
    with transaction(ready) as connection:
        bind = lambda key, moment: nodestore.bind_proof(connection, "p", key, expires=now + HOUR, now=moment)  # noqa: E731
        assert bind(KEY, now)
        assert bind(KEY, now)
        assert not bind(OTHER, now)
        assert bind(OTHER, now + HOUR)


def test_a_machine_is_known_by_what_it_cannot_change_and_by_nothing_else(ready: sa.Engine, now: dt.datetime) -> None:
    proved = {
        "one": (("node:x509-public-key", KEY), ("node:x509-cn", "a")),
        "two": (("node:x509-cn", "b"), ("node:x509-public-key", KEY)),
        "three": (("node:x509-public-key", OTHER), ("node:x509-cn", "a")),
        "chip": (("node:tpm-ek", KEY),),
        "four": (("node:x509-cn", KEY),),
    }
    with transaction(ready) as connection:
        for name, facts in proved.items():
            nodestore.admit_node(connection, name, attestor="a", facts=facts, spki_sha256=name, now=now)

        def names(facts: nodestore.Facts, *, are_banned: bool = False) -> list[str]:
            return [found.name for found in nodestore.of_machine(connection, facts, are_banned=are_banned)]

        assert names(proved["one"]) == names(proved["two"]) == ["one", "two"]
        assert names(proved["three"]) == ["three"]
        assert names(proved["chip"]) == ["chip"]
        assert names(proved["four"]) == names(()) == []
        assert names(proved["one"], are_banned=True) == []
        nodestore.set_ban(connection, "two", now, "")
        assert names(proved["one"], are_banned=True) == ["two"]
