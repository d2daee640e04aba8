import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import neighbours, store
from ca.authority import Authority
from ca.downstreams import MAX_CERTIFICATES, _jwk
from ca.keys import KeyAlgorithm, generate, new_key
from ca.neighbours import Words, Work
from ca.rotation import AuthorityState, Kind
from ca.slotstore import Live
from ca.trustmaking import fingerprint, public_jwk
from ca.upstream.chain import build_csr
from mesh.bundle import TrustBundle
from mesh.database import transaction
from mesh.problems import Problem
from mesh.spiffe import SpiffeId
from mesh.x509svid import verify_x509_svid
from tests.ca.nested import DOMAIN, NODE, WEEK, Pair, close, open_above, open_below

HOUR = dt.timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://corp.test/web")
S = AuthorityState


@pytest.fixture
def above(tmp_path: pathlib.Path, now: dt.datetime) -> Iterator[Authority]:
    found = open_above(tmp_path, now)
    yield found
    close(found)


@pytest.fixture
def pair(tmp_path: pathlib.Path, above: Authority, now: dt.datetime) -> Iterator[Pair]:
    found = open_below(tmp_path, above, now)
    yield found
    close(found.below)


def csr() -> bytes:
    return build_csr(generate(KeyAlgorithm.P256), DOMAIN)


def code_of(work: object) -> str:
    with pytest.raises(Problem) as caught:
        work()  # type: ignore[operator]
    return caught.value.code


def svid(authority: Authority, now: dt.datetime) -> tuple[bytes, ...]:
    return authority.sign(WEB, new_key().public_key(), now=now, life=HOUR, node="n1")


def is_good(chain: tuple[bytes, ...], bundle: TrustBundle, now: dt.datetime) -> bool:
    try:
        return verify_x509_svid(chain, {DOMAIN: bundle}, now).spiffe_id == WEB
    except Problem:
        return False


def rotate_root(authority: Authority, now: dt.datetime) -> str:
    old = authority.active(Kind.ROOT).id
    made = authority.succession.prepare(Kind.ROOT, now, actor="ada", reason="drill")
    authority.succession.activate(made.id, now, actor="ada", reason="drill")
    return old


def test_nobody_is_given_one_that_people_did_not_allow(above: Authority, now: dt.datetime) -> None:
    for node in ("node-1", NODE, ""):
        assert code_of(lambda node=node: above.downstreams.sign(node, csr(), now)) == "LM1625"
        assert code_of(lambda node=node: above.downstreams.standing(node)) == "LM1625"
        assert code_of(lambda node=node: above.downstreams.hear(node, Words(), now)) == "LM1625"
    assert [slot for slot in above.slots if slot.kind is Kind.DOWNSTREAM] == []


@pytest.mark.parametrize("name", ["", "EU", "a/b", "-a", "a-", "a.b", "a" * 41, "ä"])
def test_a_name_that_is_none_is_refused(above: Authority, now: dt.datetime, name: str) -> None:
    assert code_of(lambda: above.downstreams.allow(name, token="t", life=WEEK, now=now)) == "LM1622"


@pytest.mark.parametrize("life", [dt.timedelta(minutes=59), dt.timedelta(days=91), dt.timedelta()])
def test_a_life_that_people_cannot_bound_is_refused(above: Authority, now: dt.datetime, life: dt.timedelta) -> None:
    assert code_of(lambda: above.downstreams.allow("eu", token="t", life=life, now=now)) == "LM1622"


def test_what_is_given_may_sign_leaves_and_nothing_else_and_ends_when_people_said(pair: Pair, now: dt.datetime) -> None:
    (slot,) = pair.above.downstreams.certificates(NODE)
    found = x509.load_der_x509_certificate(slot.certificates[0])
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert found.not_valid_after_utc == now + WEEK == slot.not_after
    assert (slot.kind, slot.state, slot.parent) == (Kind.DOWNSTREAM, S.ACTIVE, pair.above.active(Kind.ROOT).id)


def test_what_either_signs_verifies_at_both(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    for signer in (pair.above, pair.below):
        chain = svid(signer, now)
        assert is_good(chain, pair.above.bundle, now)
        assert is_good(chain, pair.below.bundle, now)
    assert pair.above.bundle.digest == pair.below.bundle.digest


def test_it_names_no_node_of_the_server_above(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    stolen = svid(pair.below, now)
    assert is_good(stolen, pair.above.bundle, now)
    assert not is_good(stolen, pair.above.own_bundle, now)
    assert is_good(svid(pair.above, now), pair.above.own_bundle, now)


def test_the_same_key_gets_the_same_certificate_again(pair: Pair, now: dt.datetime) -> None:
    request = csr()
    first = pair.above.downstreams.sign(NODE, request, now)
    again = pair.above.downstreams.sign(NODE, request, now + HOUR)
    assert (again.chain, again.is_new) == (first.chain, False)
    # below another root it is another one
    rotate_root(pair.above, now)
    assert pair.above.downstreams.sign(NODE, request, now + HOUR).is_new


def test_who_asks_for_ever_more_gets_no_more(pair: Pair, now: dt.datetime) -> None:
    for _ in range(MAX_CERTIFICATES - 1):
        pair.above.downstreams.sign(NODE, csr(), now)
    assert code_of(lambda: pair.above.downstreams.sign(NODE, csr(), now)) == "LM1626"
    # one of them signs, the others retired
    states = [slot.state for slot in pair.above.downstreams.certificates(NODE)]
    assert (states.count(S.ACTIVE), states.count(S.OLD)) == (1, MAX_CERTIFICATES - 1)


def test_a_request_without_a_proof_leaves_no_row(pair: Pair, now: dt.datetime) -> None:
    before = pair.above.trust.sequence
    request = bytearray(csr())
    request[-1] ^= 1
    assert code_of(lambda: pair.above.downstreams.sign(NODE, bytes(request), now)) == "LM1617"
    assert code_of(lambda: pair.above.downstreams.sign(NODE, b"\x30\x00", now)) == "LM1617"
    assert pair.above.trust.sequence == before


def test_it_is_in_the_blast_radius_of_its_root_with_what_hangs_on_it(pair: Pair, now: dt.datetime) -> None:
    for _ in range(3):
        svid(pair.below, now)
    pair.meet(now)
    root, (slot,) = pair.above.active(Kind.ROOT), pair.above.downstreams.certificates(NODE)
    found = pair.above.succession.blast(slot.id, now)
    assert (found.downstreams, found.certificates, found.identities, found.nodes) == (1, 3, 1, 1)
    assert found.safe_at == now + HOUR
    # the root's: the certificate itself, and what hangs on it
    assert pair.above.succession.blast(root.id, now).certificates == 4


def test_silence_counts_as_long_as_its_certificate_lives(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    (slot,) = pair.above.downstreams.certificates(NODE)
    assert pair.above.succession.blast(slot.id, now).certificates == 0
    late = pair.above.succession.blast(slot.id, now + dt.timedelta(minutes=2))
    assert (late.certificates, late.safe_at) == (1, slot.not_after)


def test_revoked_its_work_ends_at_both_at_once(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    chain = svid(pair.below, now)
    (slot,) = pair.above.downstreams.certificates(NODE)
    pair.above.succession.revoke(slot.id, now, actor="ada", reason="stolen")
    assert not is_good(chain, pair.above.bundle, now)
    assert pair.follow(now).reissue
    assert not is_good(chain, pair.below.bundle, now)
    # it asked for another one, and goes on
    pair.follow(now)
    assert is_good(svid(pair.below, now), pair.above.bundle, now)


def test_removed_it_gets_nothing_more_and_its_words_count_no_more(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    chain, kid = svid(pair.below, now), pair.below.jwt_key.kid
    assert any(kid.encode() in item for item in pair.above.bundle.jwt_authorities)
    assert len(pair.above.downstreams.remove("eu", now, actor="ada", reason="gone")) == 1
    assert not is_good(chain, pair.above.bundle, now)
    assert not any(kid.encode() in item for item in pair.above.bundle.jwt_authorities)
    assert code_of(lambda: pair.above.downstreams.sign(NODE, csr(), now)) == "LM1625"
    assert code_of(lambda: pair.above.downstreams.find("eu")) == "LM1624"
    assert pair.above.downstreams.of_token("token-eu") is None
    assert pair.above.downstreams.all() == []


def test_a_revoked_svid_of_the_server_below_is_dead_above_too(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    chain = svid(pair.below, now)
    serial = f"{x509.load_der_x509_certificate(chain[0]).serial_number:x}"
    with transaction(pair.below._engine) as connection:
        found = store.find_issuances(connection, serial, now)
    pair.below.succession.revoke_svids(found, now, "stolen")
    assert is_good(chain, pair.above.bundle, now)
    pair.say(now)
    assert not is_good(chain, pair.above.bundle, now)


def test_it_revokes_nobody_elses(pair: Pair, tmp_path: pathlib.Path, now: dt.datetime) -> None:
    other = open_below(tmp_path, pair.above, now, "us")
    found = x509.load_der_x509_certificate(svid(other.below, now)[0])
    with transaction(other.below._engine) as connection:
        rows = store.find_issuances(connection, f"{found.serial_number:x}", now)
    other.below.succession.revoke_svids(rows, now, "stolen")
    crls = other.below.following.words(now).crls
    assert len(crls) == 1
    assert code_of(lambda: pair.above.downstreams.hear(NODE, Words(crls=crls), now)) == "LM1628"
    assert code_of(lambda: pair.above.downstreams.hear(NODE, Words(crls=(b"\x30\x00",)), now)) == "LM1628"
    assert pair.above.bundle.crls == ()
    close(other.below)


def test_it_takes_nobody_elses_key_id(pair: Pair, now: dt.datetime) -> None:
    jwk = public_jwk(pair.above.jwt_key.kid, new_key().public_key())
    assert code_of(lambda: pair.above.downstreams.hear(NODE, Words(jwks=(jwk,)), now)) == "LM1628"
    assert jwk not in pair.above.bundle.jwt_authorities


@pytest.mark.parametrize(
    "jwk",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kid": 1}',
        b'{"kid": ""}',
        b'{"kid": "k", "kty": "EC"}',
        b'{"kid":"k","kty":"oct","k":"YQ"}',
    ],
)
def test_a_key_that_verifies_no_tokens_is_refused(pair: Pair, now: dt.datetime, jwk: bytes) -> None:
    assert code_of(lambda: pair.above.downstreams.hear(NODE, Words(jwks=(jwk,)), now)) == "LM1627"


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(Problem, match="LM1627"):
        _jwk(data, NODE)


def test_too_much_is_refused(pair: Pair, now: dt.datetime) -> None:
    live = Live(certificates=1, identities=1, nodes=1, last_end=None, last_issued=None)
    for words in (
        Words(jwks=(b"{}",) * 17),
        Words(crls=(b"",) * 17),
        Words(works=(Work(certificate="", live=live),) * 65),
        Words(crls=(b"x" * (1 << 20), b"x")),
    ):
        assert code_of(lambda words=words: pair.above.downstreams.hear(NODE, words, now)) == "LM1627"


def test_a_count_of_somebody_elses_certificate_is_dropped(pair: Pair, now: dt.datetime) -> None:
    issuing = fingerprint(pair.above.active(Kind.ISSUING).certificates[0])
    live = Live(certificates=9, identities=9, nodes=9, last_end=None, last_issued=None)
    pair.above.downstreams.hear(NODE, Words(works=(Work(certificate=issuing, live=live),)), now)
    with transaction(pair.above._engine) as connection:
        found = neighbours.get_downstream(connection, NODE)
    assert found is not None
    assert found.words.works == ()


def test_below_a_foreign_root_nobody_can_be_put(pair: Pair, now: dt.datetime) -> None:
    assert code_of(lambda: pair.below.downstreams.allow("us", token="t", life=WEEK, now=now)) == "LM1623"


def test_a_rotated_root_is_followed_and_who_knows_only_the_old_one_follows_too(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    before, only_old = (
        svid(pair.below, now),
        TrustBundle(trust_domain=DOMAIN, x509_authorities=pair.above.bundle.x509_authorities),
    )
    rotate_root(pair.above, now)
    assert pair.above.downstreams.standing(NODE).renew
    pair.follow(now)
    made = pair.below.succession.prepare(Kind.ISSUING, now, actor="upstream", reason="asked")
    pair.follow(now)
    pair.below.succession.activate(made.id, now, actor="upstream", reason="held")
    assert not pair.above.downstreams.standing(NODE).renew
    after = svid(pair.below, now)
    for chain in (before, after):
        assert is_good(chain, pair.above.bundle, now)
        assert is_good(chain, pair.below.bundle, now)
        assert is_good(chain, only_old, now)
    assert pair.below.active(Kind.ROOT).certificates[0] == pair.above.active(Kind.ROOT).certificates[0]
