import datetime as dt

import pytest
import sqlalchemy as sa

from ca import slotstore
from ca.authority import Authority
from ca.rotation import AuthorityState, Event, Kind
from ca.slotbook import SlotBook
from mesh.database import transaction
from mesh.problems import Conflict


@pytest.fixture
def book(authority: Authority) -> SlotBook:
    return authority.succession._book


def test_a_transition_is_written_with_its_journal_entry_or_not_at_all(
    authority: Authority, book: SlotBook, engine: sa.Engine, now: dt.datetime
) -> None:
    slot = authority.active(Kind.ISSUING)
    with transaction(engine) as connection:
        before = slotstore.journal(connection)
    with pytest.raises(Conflict, match="LM1301"), transaction(engine) as connection:
        book.change(connection, slot, Event.RETIRE, now, "first", "ada")
        book.change(connection, slot, Event.TAINT, now, "refused", "ada")
    with transaction(engine) as connection:
        assert slotstore.journal(connection) == before
        assert slot in slotstore.slots(connection)


def test_what_says_nothing_new_gets_no_number(
    authority: Authority, book: SlotBook, engine: sa.Engine, now: dt.datetime
) -> None:
    number = authority.trust.sequence
    with transaction(engine) as connection:
        assert not book.publish(connection, now)
        assert book.publish(connection, now, above=number + 7)
        found = slotstore.get_trust(connection)
    assert found is not None
    assert found[0] == number + 8


def test_a_revoked_issuing_certificate_is_on_its_roots_list(
    authority: Authority, book: SlotBook, engine: sa.Engine, now: dt.datetime
) -> None:
    made = authority.succession.prepare(Kind.ISSUING, now, actor="ada", reason="drill")
    with transaction(engine) as connection:
        book.leave(connection, made, Event.REVOKE, now, "stolen", "ada")
        (found,) = slotstore.revocations(connection)
        state = next(slot.state for slot in slotstore.slots(connection) if slot.id == made.id)
    assert (found.authority, state) == (made.parent, AuthorityState.REVOKED)
