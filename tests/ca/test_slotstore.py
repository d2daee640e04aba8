import datetime as dt

import pytest
import sqlalchemy as sa

from ca import slotstore, store
from ca.authority import Authority
from ca.rotation import AuthorityState, Kind, Slot
from ca.slotstore import Entry, Revocation
from mesh.database import transaction

HOUR = dt.timedelta(hours=1)


def slot(now: dt.datetime, name: str = "abc", state: AuthorityState = AuthorityState.PREPARED) -> Slot:
    return Slot(
        id=name,
        kind=Kind.ISSUING,
        state=state,
        parent="r",
        certificates=(b"one", b"", b"\x00\x01two"),
        created=now,
        changed=now,
        not_after=now + HOUR,
    )


@pytest.fixture
def tables(authority: Authority, engine: sa.Engine) -> sa.Engine:
    del authority
    return engine


def test_a_slot_comes_back_as_it_was(tables: sa.Engine, now: dt.datetime) -> None:
    with transaction(tables) as connection:
        slotstore.put_slot(connection, slot(now), published=7)
    with transaction(tables) as connection:
        assert slot(now) in slotstore.slots(connection)
        assert slotstore.published(connection, "abc") == 7
        assert slotstore.published(connection, "nobody") == 0
        slotstore.change_slot(connection, slot(now, state=AuthorityState.ENDED))
        assert "abc" not in {item.id for item in slotstore.slots(connection)}
        # its name and when it was published stay
        assert slotstore.published(connection, "abc") == 7


def test_a_revocation_is_for_good_and_known_once(tables: sa.Engine, now: dt.datetime) -> None:
    found = Revocation(serial="ff", authority="a", spiffe_id="s", revoked=now, not_after=now + HOUR, reason="x" * 1000)
    with transaction(tables) as connection:
        assert slotstore.revoke(connection, found)
        assert not slotstore.revoke(connection, found)
        assert [item.serial for item in slotstore.revocations(connection, now)] == ["ff"]
        assert slotstore.revocations(connection, now + 2 * HOUR) == []
        (kept,) = slotstore.revocations(connection)
        assert len(kept.reason) == 400
        asked = [slotstore.revoked_at(connection, *of) for of in (("ff", "a"), ("fe", "a"), ("ff", "b"))]
        assert asked == [now, None, None]


def test_the_journal_tells_what_was_not_logged(tables: sa.Engine, now: dt.datetime) -> None:
    entry = Entry(at=now, slot="abc", kind=Kind.JWT, before="", after="prepared", reason="r", actor="ada")
    with transaction(tables) as connection:
        before = len(slotstore.journal(connection, unlogged=True))
        slotstore.add_entry(connection, entry)
        found = slotstore.journal(connection, unlogged=True)
        assert len(found) == before + 1
        assert (found[-1].slot, found[-1].actor) == ("abc", "ada")
        slotstore.mark_logged(connection, [item.number for item in found])
        assert slotstore.journal(connection, unlogged=True) == []
        assert len(slotstore.journal(connection)) == before + 1
        assert len(slotstore.journal(connection, limit=1)) == 1


def test_only_the_newest_trust_state_is_kept(tables: sa.Engine, now: dt.datetime) -> None:
    with transaction(tables) as connection:
        slotstore.put_trust(connection, 40, b"a", now)
        slotstore.put_trust(connection, 41, b"b", now)
        assert slotstore.get_trust(connection) == (41, b"b", now)
        assert connection.execute(sa.select(sa.func.count()).select_from(slotstore.TRUST)).scalar() == 1


def test_what_lives_is_counted_by_authority(tables: sa.Engine, now: dt.datetime) -> None:
    rows = [
        store.Issuance(
            serial=f"{number:x}",
            spiffe_id=f"spiffe://corp.test/{number % 2}",
            node=f"n{number % 3}",
            rule="r",
            issued=now,
            not_after=now + number * HOUR,
            authority="abc",
        )
        for number in range(1, 7)
    ]
    with transaction(tables) as connection:
        store.record_issuances(connection, rows)
        found = slotstore.live(connection, "abc", now + 2 * HOUR)
        assert (found.certificates, found.identities, found.nodes) == (4, 2, 3)
        assert (found.last_end, found.last_issued) == (now + 6 * HOUR, now)
        assert slotstore.live(connection, "other", now).last_end is None
        assert slotstore.last_end(connection, "abc") == now + 6 * HOUR
        assert slotstore.last_end(connection, "other") is None


def test_what_was_replaced_is_counted_apart_once_its_authority_signs_no_more(
    tables: sa.Engine, now: dt.datetime
) -> None:
    def row(serial: str, authority: str, minute: int, **fields: str) -> store.Issuance:
        begin = now + dt.timedelta(minutes=minute)
        values = {"node": "n", "spiffe_id": "spiffe://corp.test/a", "rule": "r", "kind": "x509", **fields}
        return store.Issuance(serial=serial, issued=begin, not_after=begin + HOUR, authority=authority, **values)

    rows = [
        row("1", "old", 0),
        # another identity, another agent, a person's, a token: nobody replaced them
        row("2", "old", 1, spiffe_id="spiffe://corp.test/b"),
        row("3", "old", 2, node="m"),
        row("4", "old", 3, node="", rule="by hand"),
        row("5", "old", 4, kind="jwt"),
        # what the old one signed later, after a roll-back, is in use
        row("6", "old", 9),
        row("7", "new", 5),
        row("8", "new", 5, node="", rule="by hand"),
    ]
    with transaction(tables) as connection:
        store.record_issuances(connection, rows)
        found = slotstore.live(connection, "old", now, is_left=True)
        assert (found.certificates, found.replaced, found.last_end) == (5, 1, now + HOUR + dt.timedelta(minutes=9))
        assert slotstore.live(connection, "old", now).certificates == 6
        assert slotstore.live(connection, "new", now, is_left=True).replaced == 1
        # a successor that was revoked is none
        gone = slotstore.Revocation(
            serial="6", authority="old", spiffe_id="spiffe://corp.test/a", revoked=now, not_after=now + HOUR, reason=""
        )
        slotstore.revoke(connection, gone)
        assert slotstore.live(connection, "new", now, is_left=True).replaced == 0
