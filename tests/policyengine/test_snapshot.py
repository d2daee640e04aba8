import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import canonicaljson
from mesh.problems import Invalid
from policyengine.snapshot import Snapshot, hash_of, snapshot_from_json


def refusal(act: Any) -> str:
    with pytest.raises(Invalid) as caught:
        act()
    return caught.value.code


def test_reads_what_it_writes(releases: Any) -> None:
    snapshot = releases.snapshot("cart", identity_rules="rules: []\n", federation=(("a.test", "https://a"),))
    found = Snapshot.from_bytes(snapshot.to_bytes(), snapshot.hash)
    assert found == snapshot
    assert snapshot_from_json(json.loads(snapshot.to_bytes()), snapshot.hash) == snapshot


def test_is_named_by_the_hash_of_its_content(releases: Any) -> None:
    snapshot = releases.snapshot("cart")
    assert snapshot.hash == hash_of(snapshot.to_bytes())
    assert snapshot.hash.startswith("sha256:")
    assert len(snapshot.hash) == len("sha256:") + 64


def test_equal_content_has_one_hash(releases: Any) -> None:
    assert releases.snapshot("cart").hash == releases.snapshot("cart").hash


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("identity_rules", "rules: []"),
        ("federation", (("a.test", "https://a"),)),
        ("jwt_issuers", (("https://idp.test", "https://idp.test/keys"),)),
        ("reviewer_set", "sha256:other"),
    ],
    ids=str,
)
def test_every_field_is_in_the_hash(releases: Any, name: Any, value: Any) -> None:
    snapshot = releases.snapshot("cart")
    assert dataclasses.replace(snapshot, **{name: value}).hash != snapshot.hash


def test_refuses_content_that_is_not_what_was_asked_for(releases: Any) -> None:
    one, other = releases.snapshot("cart"), releases.snapshot("mallory")
    assert refusal(lambda: Snapshot.from_bytes(other.to_bytes(), one.hash)) == "LM2402"
    assert refusal(lambda: snapshot_from_json(json.loads(other.to_bytes()), one.hash)) == "LM2402"


def changed(snapshot: Any, **fields: Any) -> bytes:
    return canonicaljson.dumps({**json.loads(snapshot.to_bytes()), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"schema": 2}, id="later-schema"),
        pytest.param({"schema": True}, id="schema-true"),
        pytest.param({"extra": 1}, id="unknown-field"),
        pytest.param({"trust_domain": "Corp.test"}, id="trust-domain"),
        pytest.param({"identity_rules": 1}, id="rules-a-number"),
        pytest.param({"federation": []}, id="federation-a-list"),
        pytest.param({"jwt_issuers": {"a": 1}}, id="issuer-a-number"),
        pytest.param({"reviewer_set": None}, id="no-reviewers"),
        pytest.param({"tiers": {"db": {"8080": "HTTP1"}}}, id="tiers-that-do-not-follow"),
    ],
)
def test_refuses_json_that_is_no_snapshot(releases: Any, fields: Any) -> None:
    data = changed(releases.snapshot("cart"), **fields)
    assert refusal(lambda: Snapshot.from_bytes(data, hash_of(data))) == "LM2401"


def test_refuses_another_way_to_write_the_same(releases: Any) -> None:
    data = json.dumps(json.loads(releases.snapshot("cart").to_bytes()), indent=1).encode()
    assert refusal(lambda: Snapshot.from_bytes(data)) == "LM2401"


def test_refuses_a_key_that_stands_twice(releases: Any) -> None:
    data = releases.snapshot("cart").to_bytes()[:-1] + b',"schema":1}'
    assert refusal(lambda: Snapshot.from_bytes(data)) == "LM2401"


def test_refuses_pairs_that_are_not_sorted(releases: Any) -> None:
    pairs = (("b.test", ""), ("a.test", ""))
    assert refusal(lambda: releases.snapshot("cart", federation=pairs)) == "LM2401"
    assert refusal(lambda: releases.snapshot("cart", federation=(pairs[0], pairs[0]))) == "LM2401"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    assert refusal(lambda: Snapshot.from_bytes(data)).startswith("LM24")
