import dataclasses
import datetime as dt
import pathlib

import pytest

from ca import mint
from ca.keys import new_key
from enforcer.nodestate import NodeState
from enforcer.trusted import Trusted, for_sidecar
from mesh.bundle import TrustBundle
from mesh.problems import Problem
from mesh.spiffe import TrustDomain
from mesh.truststate import TrustState

DOMAIN = TrustDomain.parse("corp.test")
NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
KEY = new_key()
ROOTS = [mint.mint_root(DOMAIN, new_key(), serial=n, now=NOW, life=dt.timedelta(days=1)) for n in (2, 3)]


def state(number: int, roots: int = 1, key: object = KEY, **fields: object) -> bytes:
    bundle = TrustBundle(
        trust_domain=DOMAIN, x509_authorities=tuple(ROOTS[:roots]), sequence=number, intermediates=frozenset()
    )
    return TrustState(bundle=dataclasses.replace(bundle, **fields)).sign(key)  # type: ignore[arg-type]


@pytest.fixture
def node() -> NodeState:
    return NodeState(
        trust_domain="corp.test",
        url="",
        node_api="",
        server_pin="",
        server_certificate=mint.mint_server(KEY, serial=1, now=NOW, life=dt.timedelta(days=1)),
        reviewers_pin="",
        spiffe_id="spiffe://corp.test/limen/agent/n1",
        chain=(),
        bundle=TrustBundle(trust_domain=DOMAIN, x509_authorities=(ROOTS[0],), sequence=3).to_json(),
        key=b"",
        record_key=b"",
    )


def code_of(trusted: Trusted, data: bytes) -> str:
    with pytest.raises(Problem) as caught:
        trusted.take(data)
    return caught.value.code


def test_before_the_first_state_there_is_the_bundle_that_came_with_the_svid(
    tmp_path: pathlib.Path, node: NodeState
) -> None:
    found = Trusted(tmp_path, DOMAIN, node)
    assert (found.sequence, found.signed, found.bundle.x509_authorities) == (0, b"", (ROOTS[0],))


def test_a_state_is_kept_over_a_restart(tmp_path: pathlib.Path, node: NodeState) -> None:
    data = state(5, roots=2)
    assert Trusted(tmp_path, DOMAIN, node).take(data)
    again = Trusted(tmp_path, DOMAIN, node)
    assert (again.sequence, again.signed, len(again.bundle.x509_authorities)) == (5, data, 2)
    assert again.bundle.intermediates == frozenset()
    assert not again.take(data)


def test_a_lower_number_or_another_key_changes_nothing(tmp_path: pathlib.Path, node: NodeState) -> None:
    found = Trusted(tmp_path, DOMAIN, node)
    found.take(state(5))
    assert code_of(found, state(4, roots=2)) == "LM1313"
    assert code_of(found, state(6, key=new_key())) == "LM1303"
    # other words under the number that was seen: of a server that gives its numbers again
    assert code_of(found, state(5, roots=2)) == "LM1313"
    assert (found.sequence, len(Trusted(tmp_path, DOMAIN, node).bundle.x509_authorities)) == (5, 1)


def test_the_same_words_signed_again_are_no_news(tmp_path: pathlib.Path, node: NodeState) -> None:
    found = Trusted(tmp_path, DOMAIN, node)
    assert found.take(state(5))
    assert not found.take(state(5))
    assert found.take(state(6, roots=2))


def test_a_state_of_another_server_is_not_believed_after_a_new_join(tmp_path: pathlib.Path, node: NodeState) -> None:
    Trusted(tmp_path, DOMAIN, node).take(state(9, roots=2))
    node.server_certificate = mint.mint_server(new_key(), serial=1, now=NOW, life=dt.timedelta(days=1))
    assert Trusted(tmp_path, DOMAIN, node).sequence == 0


def test_the_bundle_of_a_renewal_counts_only_when_it_is_newer(tmp_path: pathlib.Path, node: NodeState) -> None:
    found = Trusted(tmp_path, DOMAIN, node)
    found.take(state(5, roots=2))
    older = TrustBundle(trust_domain=DOMAIN, x509_authorities=(ROOTS[0],), sequence=5).to_json()
    newer = TrustBundle(trust_domain=DOMAIN, x509_authorities=(ROOTS[0],), sequence=6).to_json()
    assert not found.take_bundle(older)
    assert found.bundle.intermediates == frozenset()
    assert found.take_bundle(newer)
    assert found.bundle.x509_authorities == (ROOTS[0],)


def test_a_sidecar_is_told_pins_and_lists() -> None:
    bundle = TrustBundle(
        trust_domain=DOMAIN, x509_authorities=(b"r",), intermediates=frozenset({"b", "a"}), crls=(b"c",)
    )
    assert for_sidecar(bundle, bytes.hex) == {"authorities": ["72"], "intermediates": ["a", "b"], "crls": ["63"]}
    bare = TrustBundle(trust_domain=DOMAIN)
    assert for_sidecar(bare, bytes.hex) == {"authorities": [], "intermediates": None, "crls": []}
