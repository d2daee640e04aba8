import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest

from ca.authority import open_authority
from ca.rotation import AuthorityState, Kind, find
from ca.trustmaking import fingerprint
from mesh.problems import Unavailable
from tests.ca.nested import DOMAIN, NODE, WRAPPING, Pair, close, open_above, open_below
from tests.ca.test_downstreams import is_good, rotate_root, svid

S = AuthorityState


@pytest.fixture
def pair(tmp_path: pathlib.Path, now: dt.datetime) -> Iterator[Pair]:
    found = open_below(tmp_path, open_above(tmp_path, now), now)
    yield found
    close(found.above, found.below)


def test_from_its_first_moment_it_trusts_what_the_server_above_trusts(pair: Pair, now: dt.datetime) -> None:
    assert is_good(svid(pair.above, now), pair.below.bundle, now)
    assert pair.below.following.is_pinned(pair.below.active(Kind.ISSUING))


def test_an_older_word_changes_nothing(pair: Pair, now: dt.datetime) -> None:
    old = (pair.above.trust, pair.above.signed_trust)
    rotate_root(pair.above, now)
    assert pair.follow(now).is_new
    before = pair.below.trust.sequence
    assert not pair.below.following.follow(*old, tainted=(), now=now).is_new
    assert not pair.follow(now).is_new
    assert pair.below.trust.sequence == before


def test_a_root_that_is_trusted_no_more_opens_nothing_though_nobody_can_be_asked(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    chain = svid(pair.below, now)
    old = rotate_root(pair.above, now)
    pair.above.succession.revoke(old, now, actor="ada", reason="stolen")
    pair.way.is_reachable = False
    with pytest.raises(Unavailable, match="LM1613"):
        pair.follow(now)
    assert not is_good(chain, pair.below.bundle, now)
    # what cannot be verified is not issued either
    assert not is_good(svid(pair.below, now), pair.below.bundle, now)
    pair.way.is_reachable = True
    found = pair.follow(now)
    assert (found.reissue, found.has_successor) == (True, True)
    pair.follow(now)
    assert is_good(svid(pair.below, now), pair.below.bundle, now)
    assert is_good(svid(pair.below, now), pair.above.bundle, now)
    assert {slot.state for slot in pair.below.slots if slot.kind is Kind.ROOT} == {S.ACTIVE, S.REVOKED}


def test_what_is_tainted_above_is_tainted_here_once_another_one_signs(pair: Pair, now: dt.datetime) -> None:
    old = rotate_root(pair.above, now)
    pair.above.succession.taint(old, now, actor="ada", reason="weak")
    first = pair.below.active(Kind.ISSUING)
    assert pair.above.downstreams.standing(NODE).tainted == (fingerprint(first.certificates[0]),)
    assert not pair.follow(now).reissue
    made = pair.below.succession.prepare(Kind.ISSUING, now, actor="upstream", reason="asked")
    pair.below.succession.activate(made.id, now, actor="upstream", reason="held")
    assert pair.follow(now).reissue
    assert pair.below.succession.find(first.id).state is S.TAINTED


def test_the_own_word_comes_back_and_changes_nothing(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    above, below = pair.above.trust.sequence, pair.below.trust.sequence
    for _ in range(3):
        pair.meet(now)
    assert (pair.above.trust.sequence, pair.below.trust.sequence) == (above, below)


def test_after_a_restart_without_the_server_above_it_knows_what_it_knew(
    pair: Pair, tmp_path: pathlib.Path, now: dt.datetime
) -> None:
    pair.meet(now)
    pair.way.is_reachable = False
    again = open_authority(pair.below._engine, WRAPPING, trust_domain=DOMAIN, now=now, upstream=pair.way)
    assert again.bundle == pair.below.bundle
    assert is_good(svid(pair.above, now), again.bundle, now)
    assert is_good(svid(again, now), again.bundle, now)


def test_a_root_rolled_back_above_signs_here_again(pair: Pair, now: dt.datetime) -> None:
    first = pair.above.active(Kind.ROOT).certificates[0]
    rotate_root(pair.above, now)
    for turn in range(2):
        if turn:
            pair.above.succession.roll_back(now, Kind.ISSUING, actor="n1", reason="rejected")
        pair.follow(now)
        made = pair.below.succession.prepare(Kind.ISSUING, now, actor="upstream", reason="asked")
        pair.below.succession.activate(made.id, now, actor="upstream", reason="held")
    assert pair.below.active(Kind.ROOT).certificates[0] == first == pair.above.active(Kind.ROOT).certificates[0]
    assert is_good(svid(pair.below, now), pair.above.bundle, now)


def test_a_successor_that_is_withdrawn_leaves_the_roots_to_the_server_above(pair: Pair, now: dt.datetime) -> None:
    rotate_root(pair.above, now)
    pair.follow(now)
    made = pair.below.succession.prepare(Kind.ISSUING, now, actor="upstream", reason="asked")
    pair.below.succession.withdraw(made.id, now, actor="server", reason="not reported")
    assert len(find(pair.below.slots, Kind.ROOT, S.PREPARED)) == 1
    again = pair.below.succession.prepare(Kind.ISSUING, now, actor="upstream", reason="asked")
    pair.below.succession.activate(again.id, now, actor="upstream", reason="held")
    assert is_good(svid(pair.below, now), pair.above.bundle, now)


def test_what_it_says_is_its_own_and_nothing_of_the_server_above(pair: Pair, now: dt.datetime) -> None:
    pair.meet(now)
    words = pair.below.following.words(now)
    assert len(words.jwks) == 1
    assert pair.below.jwt_key.kid.encode() in words.jwks[0]
    assert [item.certificate for item in words.works] == [fingerprint(pair.below.active(Kind.ISSUING).certificates[0])]
