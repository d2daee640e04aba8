import datetime as dt
import json
import pathlib
import random
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca import slotstore, store
from ca.authority import Authority, open_authority
from ca.keys import KeyAlgorithm, new_key
from ca.keysource import MemoryKeys
from ca.rotation import OWN, AuthorityState, Kind, find
from mesh.bundle import TrustBundle
from mesh.database import open_database, sqlite_url, transaction
from mesh.problems import Conflict, NotFound, Problem
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.truststate import parse_payload
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid
from tests.ca import dying
from tests.examples import examples

HOUR = dt.timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://corp.test/web")
S = AuthorityState
ROOT = pathlib.Path(__file__).parents[2]


def leaf(authority: Authority, now: dt.datetime) -> tuple[bytes, ...]:
    return authority.sign(WEB, new_key().public_key(), now=now, life=HOUR, node="n1")


def is_good(chain: tuple[bytes, ...], bundle: TrustBundle, now: dt.datetime) -> bool:
    try:
        return verify_x509_svid(chain, {bundle.trust_domain: bundle}, now).spiffe_id == WEB
    except Problem:
        return False


def rotate(authority: Authority, kind: Kind, now: dt.datetime) -> str:
    made = authority.succession.prepare(kind, now, actor="ada", reason="drill")
    return authority.succession.activate(made.id, now, actor="ada", reason="drill").id


def state_of(authority: Authority, name: str) -> AuthorityState:
    return authority.succession.find(name).state


@pytest.mark.parametrize("kind", [Kind.ISSUING, Kind.ROOT, Kind.JWT], ids=str)
def test_what_is_prepared_is_published_and_signs_nothing(authority: Authority, now: dt.datetime, kind: Kind) -> None:
    before, sequence = authority.active(Kind.ISSUING), authority.trust.sequence
    jwt = authority.jwt_key.kid
    made = authority.succession.prepare(kind, now, actor="ada", reason="drill")
    assert made.state is S.PREPARED
    assert authority.trust.sequence == sequence + 1 == authority.succession.published(made.id)
    assert (authority.active(Kind.ISSUING), authority.jwt_key.kid) == (before, jwt)
    # asked again, it is the same one
    assert authority.succession.prepare(kind, now, actor="ada", reason="drill").id == made.id
    assert len(authority.bundle.x509_authorities) == (2 if kind is Kind.ROOT else 1)
    assert len(authority.bundle.jwt_authorities) == (2 if kind is Kind.JWT else 1)


def test_old_and_new_leaves_verify_through_every_rotation(authority: Authority, now: dt.datetime) -> None:
    chains = [leaf(authority, now)]
    for kind in (Kind.ISSUING, Kind.ROOT, Kind.ISSUING, Kind.ROOT):
        rotate(authority, kind, now)
        chains.append(leaf(authority, now))
        assert all(is_good(chain, authority.bundle, now) for chain in chains)
        assert len({authority.active(Kind.ISSUING).id, authority.active(Kind.ROOT).id}) == 2


def test_who_knows_only_the_old_root_follows_the_new_one(authority: Authority, now: dt.datetime) -> None:
    old = TrustBundle(trust_domain=authority.trust_domain, x509_authorities=authority.bundle.x509_authorities)
    rotate(authority, Kind.ROOT, now)
    chain = leaf(authority, now)
    assert is_good(chain, old, now)
    # without what crosses from the new root to the old one nothing leads there
    assert not is_good(chain[:2], old, now)


def test_a_withdrawn_one_is_gone_with_its_key(authority: Authority, engine: sa.Engine, now: dt.datetime) -> None:
    made = authority.succession.prepare(Kind.ROOT, now, actor="ada", reason="drill")
    root = made.parent
    authority.succession.withdraw(made.id, now, actor="ada", reason="nobody came")
    assert len(authority.bundle.x509_authorities) == 1
    with transaction(engine) as connection:
        assert not {made.id, root} & set(store.key_names(connection))
    with pytest.raises(NotFound, match="LM1310"):
        authority.succession.find(made.id)


@pytest.mark.parametrize("kind", [Kind.ISSUING, Kind.ROOT], ids=str)
def test_rolled_back_the_one_before_signs_again_and_both_verify(
    authority: Authority, now: dt.datetime, kind: Kind
) -> None:
    first = authority.active(Kind.ISSUING).id
    rotate(authority, kind, now)
    chain = leaf(authority, now)
    authority.succession.roll_back(now, Kind.ISSUING, actor="ada", reason="agents reject it")
    assert authority.active(Kind.ISSUING).id == first
    assert is_good(chain, authority.bundle, now)
    assert is_good(leaf(authority, now), authority.bundle, now)
    with pytest.raises(NotFound, match="LM1310"):
        authority.succession.roll_back(now, Kind.JWT, actor="ada", reason="there is none")


def test_what_signs_now_is_neither_tainted_nor_revoked(authority: Authority, now: dt.datetime) -> None:
    for kind in OWN:
        for verb in (authority.succession.taint, authority.succession.revoke):
            with pytest.raises(Conflict, match="LM1302"):
                verb(authority.active(kind).id, now, actor="ada", reason="stolen")


def test_tainted_is_trusted_and_revoked_is_not(authority: Authority, now: dt.datetime) -> None:
    first, chain = authority.active(Kind.ISSUING).id, leaf(authority, now)
    rotate(authority, Kind.ISSUING, now)
    authority.succession.taint(first, now, actor="ada", reason="stolen")
    assert is_good(chain, authority.bundle, now)
    authority.succession.revoke(first, now, actor="ada", reason="stolen")
    assert not is_good(chain, authority.bundle, now)
    assert is_good(leaf(authority, now), authority.bundle, now)
    assert authority.trust.revoked == (first,)


def test_a_stolen_intermediate_that_was_revoked_opens_nothing_though_the_peer_brings_it(
    authority: Authority, now: dt.datetime
) -> None:
    first, chain = authority.active(Kind.ISSUING).id, leaf(authority, now)
    rotate(authority, Kind.ISSUING, now)
    authority.succession.revoke(first, now, actor="ada", reason="stolen")
    # go-spiffe #383: with the root alone the chain still holds; pins and the root's list each end it
    bare = TrustBundle(trust_domain=authority.trust_domain, x509_authorities=authority.bundle.x509_authorities)
    assert is_good(chain, bare, now)
    for extra in ({"intermediates": authority.bundle.intermediates}, {"crls": authority.bundle.crls}):
        kept = TrustBundle(trust_domain=bare.trust_domain, x509_authorities=bare.x509_authorities, **extra)  # type: ignore[arg-type]
        assert not is_good(chain, kept, now)


def test_revoking_a_root_takes_what_is_below_it(authority: Authority, now: dt.datetime) -> None:
    first, chain = authority.active(Kind.ROOT), leaf(authority, now)
    rotate(authority, Kind.ROOT, now)
    assert authority.succession.blast(first.id, now).certificates == 1
    authority.succession.revoke(first.id, now, actor="ada", reason="stolen")
    assert authority.bundle.x509_authorities == (authority.active(Kind.ROOT).certificates[0],)
    assert not is_good(chain, authority.bundle, now)


def test_a_root_does_not_end_before_what_is_below_it(authority: Authority, now: dt.datetime) -> None:
    rotate(authority, Kind.ROOT, now)
    chain, second = leaf(authority, now), authority.active(Kind.ROOT).id
    authority.succession.roll_back(now, Kind.ISSUING, actor="n1", reason="rejected")
    with pytest.raises(Conflict, match="LM1301"):
        authority.succession.end(second, now)
    assert is_good(chain, authority.bundle, now)


def test_the_blast_radius_counts_what_lives_and_was_not_revoked(authority: Authority, now: dt.datetime) -> None:
    name = authority.active(Kind.ISSUING).id
    assert authority.succession.blast(name, now).safe_at is None
    chains = [leaf(authority, now) for _ in range(3)]
    found = authority.succession.blast(name, now)
    assert (found.certificates, found.identities, found.nodes) == (3, 1, 1)
    assert (found.last_issued, found.safe_at) == (now, now + HOUR)
    assert authority.succession.blast(name, now + 2 * HOUR).certificates == 0
    revoke(authority, chains[0], now)
    assert authority.succession.blast(name, now).certificates == 2


def revoke(authority: Authority, chain: tuple[bytes, ...], now: dt.datetime) -> str:
    serial = f"{x509.load_der_x509_certificate(chain[0]).serial_number:x}"
    with transaction(authority._engine) as connection:
        rows = store.find_issuances(connection, serial, now)
    authority.succession.revoke_svids(rows, now, "stolen")
    return serial


def test_a_revoked_svid_is_dead_and_its_neighbour_lives(authority: Authority, now: dt.datetime) -> None:
    stolen, other = leaf(authority, now), leaf(authority, now)
    serial = revoke(authority, stolen, now)
    assert not is_good(stolen, authority.bundle, now)
    assert is_good(other, authority.bundle, now)
    # for good: a second time there is nothing new
    sequence = authority.trust.sequence
    assert revoke(authority, stolen, now) == serial
    assert authority.trust.sequence == sequence


def test_a_list_is_signed_again_before_it_is_too_old_and_goes_when_all_on_it_has_ended(
    authority: Authority, now: dt.datetime
) -> None:
    chain = authority.sign(WEB, new_key().public_key(), now=now, life=dt.timedelta(days=2), node="n1")
    revoke(authority, chain, now)
    (first,) = authority.bundle.crls
    assert not authority.succession.refresh(now + HOUR)
    assert authority.succession.refresh(now + 13 * HOUR)
    (second,) = authority.bundle.crls
    assert first != second
    assert not is_good(chain, authority.bundle, now + 13 * HOUR)
    assert authority.succession.refresh(now + dt.timedelta(days=3))
    assert authority.bundle.crls == ()


def test_nobody_looks_between_two_moments_at_which_time_changes_something(
    authority: Authority, engine: sa.Engine, now: dt.datetime
) -> None:
    short = authority.sign(WEB, new_key().public_key(), now=now, life=dt.timedelta(minutes=20), node="n1")
    revoke(authority, short, now)
    authority.succession.refresh(now)
    asked: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    for second in range(60):
        assert not authority.succession.refresh(now + dt.timedelta(seconds=second))
    assert asked == []
    # the revoked one ends: its list goes at that moment, not at the next round hour
    assert authority.succession.refresh(now + dt.timedelta(minutes=20, seconds=1))
    assert authority.bundle.crls == ()
    # a clock that was put back is no reason to wait
    asked.clear()
    authority.succession.refresh(now)
    assert asked


def test_a_restored_backup_takes_over_what_was_revoked_since(
    authority: Authority, engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime
) -> None:
    stolen = leaf(authority, now)
    first = authority.active(Kind.ISSUING).id
    path = pathlib.Path(str(engine.url.database))
    backup = path.with_name("backup.db")
    with transaction(engine) as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"VACUUM INTO '{backup}'")
        connection.exec_driver_sql("BEGIN")
    revoke(authority, stolen, now)
    rotate(authority, Kind.ISSUING, now)
    authority.succession.revoke(first, now, actor="ada", reason="stolen")
    newer = authority.trust
    restored_engine = open_database(sqlite_url(backup))
    restored = open_authority(restored_engine, wrapping, trust_domain=domain, now=now)
    assert is_good(stolen, restored.bundle, now)
    assert restored.active(Kind.ISSUING).id == first
    restored.succession.adopt(parse_payload(newer.payload(), domain), now)
    assert restored.trust.sequence > newer.sequence
    assert not is_good(stolen, restored.bundle, now)
    assert state_of(restored, first) is S.REVOKED
    assert is_good(leaf(restored, now), restored.bundle, now)
    restored_engine.dispose()


def test_every_transition_is_in_the_journal_once(authority: Authority, engine: sa.Engine, now: dt.datetime) -> None:
    with transaction(engine) as connection:
        slotstore.mark_logged(connection, [item.number for item in slotstore.journal(connection, unlogged=True)])
    first, second = authority.active(Kind.ISSUING).id, rotate(authority, Kind.ISSUING, now)
    authority.succession.revoke(first, now, actor="ada", reason="stolen")
    with transaction(engine) as connection:
        found = [(item.slot, item.before, item.after) for item in slotstore.journal(connection, unlogged=True)]
    assert found == [
        (second, "", "prepared"),
        (first, "active", "old"),
        (second, "prepared", "active"),
        (first, "old", "revoked"),
    ]


def test_keys_in_memory_get_successors_at_a_restart(
    engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime
) -> None:
    def opened() -> Authority:
        return open_authority(engine, wrapping, trust_domain=domain, now=now, key_source=MemoryKeys())

    first = opened()
    chain = leaf(first, now)
    second = opened()
    assert second.bundle.x509_authorities == first.bundle.x509_authorities
    assert second.active(Kind.ISSUING).id != first.active(Kind.ISSUING).id
    assert second.jwt_key.kid != first.jwt_key.kid
    assert is_good(chain, second.bundle, now)
    assert is_good(leaf(second, now), second.bundle, now)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65], ids=str)
def test_authorities_of_other_kinds_of_keys_rotate_and_revoke_too(
    engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime, algorithm: KeyAlgorithm
) -> None:
    authority = open_authority(engine, wrapping, trust_domain=domain, now=now, algorithm=algorithm)
    first = leaf(authority, now)
    rotate(authority, Kind.ROOT, now)
    second = leaf(authority, now)
    assert is_good(first, authority.bundle, now)
    assert is_good(second, authority.bundle, now)
    revoke(authority, second, now)
    assert not is_good(second, authority.bundle, now)
    token = authority.sign_jwt(WEB, ["a"], now=now, life=HOUR, node="n1")
    assert token.not_after <= now + HOUR


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["issuing", "root", "jwt", "roll-back", "taint", "revoke", "end", "sign"]), st.integers(0, 7)
    ),
    max_size=10,
)


@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_whatever_happens_one_of_a_kind_signs_and_what_is_trusted_verifies(
    wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime, steps: list[tuple[str, int]]
) -> None:
    engine = open_database("sqlite://")
    authority = open_authority(engine, wrapping, trust_domain=domain, now=now)
    signed: list[tuple[str, tuple[bytes, ...]]] = []
    sequence = 0
    for name, choice in steps:
        slots = authority.slots
        chosen = slots[choice % len(slots)].id
        try:
            match name:
                case "sign":
                    signed.append((authority.active(Kind.ISSUING).id, leaf(authority, now)))
                case "roll-back":
                    authority.succession.roll_back(now, Kind.ISSUING, actor="ada", reason="x")
                case "taint":
                    authority.succession.taint(chosen, now, actor="ada", reason="x")
                case "revoke":
                    authority.succession.revoke(chosen, now, actor="ada", reason="x")
                case "end":
                    authority.succession.end(chosen, now)
                case _:
                    rotate(authority, Kind(name), now)
        except (Conflict, NotFound):
            continue
        # INVARIANT: exactly one authority of each kind signs, and the trust state's number only grows
        assert all(len(find(authority.slots, kind, S.ACTIVE)) == 1 for kind in OWN)
        assert authority.trust.sequence >= sequence
        sequence = authority.trust.sequence
        trusted = {slot.id for slot in authority.slots if slot.is_trusted}
        for signer, chain in signed:
            assert is_good(chain, authority.bundle, now) is (signer in trusted)
    engine.dispose()


_ROTATOR = """
import datetime as dt, pathlib, sys
from ca.authority import open_authority
from ca.keys import new_key
from ca.rotation import Kind
from mesh.database import open_database, sqlite_url
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
now = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
engine = open_database(sqlite_url(pathlib.Path(sys.argv[1])))
domain, wrapping = TrustDomain.parse("corp.test"), WrappingKey(b"w" * 32, beside_state=False)
authority = open_authority(engine, wrapping, trust_domain=domain, now=now)
web, hour = SpiffeId.parse("spiffe://corp.test/web"), dt.timedelta(hours=1)
print("open", flush=True)
while True:
    for kind in (Kind.ISSUING, Kind.ROOT, Kind.JWT):
        former = authority.active(kind).id
        made = authority.succession.prepare(kind, now, actor="ada", reason="drill")
        authority.succession.activate(made.id, now, actor="ada", reason="drill")
        authority.succession.revoke(former, now, actor="ada", reason="drill")
        authority.sign(web, new_key().public_key(), now=now, life=hour, node="n")
        print(former, flush=True)
"""


@pytest.mark.system
@pytest.mark.slow
def test_kill_9_at_any_step_of_a_rotation_leaves_one_that_signs_and_revokes_nothing_back(
    tmp_path: pathlib.Path, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime
) -> None:
    path = tmp_path / "ca.db"
    dice = random.Random(11)
    gone: list[str] = []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _ROTATOR, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        process.stdout.readline()
        gone += [process.stdout.readline().strip() for _ in range(dice.randrange(0, 6))]
        process.send_signal(signal.SIGKILL)
        gone += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        engine = open_database(sqlite_url(path))
        authority = open_authority(engine, wrapping, trust_domain=domain, now=now)
        assert is_good(leaf(authority, now), authority.bundle, now)
        states = {slot.id: slot.state for slot in authority.slots}
        assert all(states[name] is S.REVOKED for name in gone)
        engine.dispose()
    assert gone


@pytest.mark.slow
@pytest.mark.parametrize("work", dying.WORKS)
def test_kill_9_before_every_statement_leaves_all_of_a_step_or_nothing_and_the_next_one_goes_on(
    tmp_path: pathlib.Path, work: str
) -> None:
    """A state with two roots, a server below and live SVIDs; each verb, killed before each of its writes."""
    state = tmp_path / "state.db"
    begun = dying.begin(state)
    begun.downstreams.allow("eu", token="t", life=dt.timedelta(days=7), now=dying.NOW)
    old = leaf(begun, dying.NOW)
    dying.give(begun)
    dying.rotate(begun, Kind.ROOT)
    good = leaf(begun, dying.NOW)
    begun._engine.dispose()
    program = [sys.executable, str(pathlib.Path(dying.__file__)), str(state), work]
    done = subprocess.run(program, capture_output=True, text=True, timeout=550, check=True, cwd=ROOT)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    # the last run was not killed: every statement before it was
    assert [row["killed"] for row in runs] == [True] * (len(runs) - 1) + [False]
    assert len(runs) > 5
    ends = []
    for row in runs:
        again = dying.begin(pathlib.Path(row["path"]))
        before = again.trust.sequence
        # exactly one of a kind signs, what it signs verifies, and so does what the active ones signed before
        assert all(len(find(again.slots, kind, S.ACTIVE)) == 1 for kind in OWN)
        assert is_good(leaf(again, dying.NOW), again.bundle, dying.NOW)
        assert is_good(good, again.bundle, dying.NOW)
        # the journal and the slots say the same
        with transaction(again._engine) as connection:
            last = {entry.slot: entry.after for entry in slotstore.journal(connection)}
        assert all(last[slot.id] == str(slot.state) for slot in again.slots)
        # the step can be done, or was
        try:
            dying.WORKS[work](again)
        except Problem as problem:
            assert problem.code in {"LM1624", "LM1310"}
        assert again.trust.sequence >= before
        states = sorted((str(slot.kind), str(slot.state)) for slot in again.slots)
        ends.append((states, is_good(old, again.bundle, dying.NOW)))
        again._engine.dispose()
    if work.startswith(("taint", "revoke", "remove")):
        # whenever it was killed: done again, it is the same end
        assert all(end == ends[-1] for end in ends)
