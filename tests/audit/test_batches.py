import base64
import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.batches import (
    Chains,
    batch_digest,
    batch_fields,
    leaves_of,
    read_batch,
    sign_batch,
    verify_batch,
    verify_batches,
)
from audit.record import to_bytes
from mesh.problems import Problem
from tests.audit.making import KEY, OTHER_KEY, make
from tests.audit.signing import AGENT, Keeper, own
from tests.examples import examples

OTHER = "spiffe://a.test/limen/agent/n2"


def code_of(call: object) -> str:
    assert callable(call)
    with pytest.raises(Problem) as caught:
        call()
    return caught.value.code


def findings(log: Sequence[bytes], **options: object) -> list[tuple[str, object]]:
    found = verify_batches(lambda: enumerate(log), **options)  # type: ignore[arg-type]
    return [(item.code, item.facts.get("sequence", item.facts.get("index"))) for item in found]


def test_a_batch_verifies_under_its_own_key_place_and_content() -> None:
    one, other = leaves_of([b"a", b"b"])
    signature, digest = sign_batch(KEY, AGENT, 3, [one, other], "before")
    public = KEY.public_key()
    assert verify_batch(public, AGENT, 3, [one, other], "before", signature) == digest
    for wrong in (
        (AGENT, 3, [other, one], "before"),
        (AGENT, 3, [one], "before"),
        (AGENT, 3, [one, other, one], "before"),
        (AGENT, 4, [one, other], "before"),
        (AGENT, 3, [one, other], "other"),
        (AGENT + "0", 3, [one, other], "before"),
    ):
        assert code_of(lambda wrong=wrong: verify_batch(public, *wrong, signature)) == "LM6012"
    stranger = OTHER_KEY.public_key()
    assert code_of(lambda: verify_batch(stranger, AGENT, 3, [one, other], "before", signature)) == "LM6012"
    assert code_of(lambda: verify_batch(public, AGENT, 3, [one, other], "before", b"")) == "LM6012"


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_two_batches_never_share_a_digest(one: list[bytes], other: list[bytes]) -> None:
    digests = [batch_digest(AGENT, 1, leaves_of(records), "") for records in (one, other)]
    assert (digests[0] == digests[1]) == (one == other)


def usual() -> Keeper:
    """Two agents, the server's own records in between, and a record that was sent twice."""
    keeper = Keeper()
    keeper.log.append(own("ca", event="token"))
    keeper.batch([make(1), make(2)])
    keeper.batch([make(10)], OTHER, OTHER_KEY)
    keeper.log.append(own("issuance", spiffe_id="spiffe://a.test/x"))
    keeper.batch([make(3), make(1), make(4)])
    keeper.batch([make(5)])
    keeper.batch([make(11), make(12)], OTHER, OTHER_KEY)
    keeper.log.append(own("ca", event="rotate"))
    return keeper


def test_the_batches_of_a_log_that_nobody_touched_verify() -> None:
    log = usual().log
    pins = {AGENT: KEY.public_key().public_bytes_raw(), OTHER: OTHER_KEY.public_key().public_bytes_raw()}
    assert findings(log, keys=pins) == []
    chains = Chains(lambda: enumerate(log), keys={}, is_whole=True)
    assert list(chains.check()) == []
    assert {agent: head.sequence for agent, head in chains.heads.items()} == {AGENT: 3, OTHER: 2}


def test_a_batch_that_is_missing_is_named() -> None:
    keeper = usual()
    places = [place for place, data in enumerate(keeper.log) if b'"kind":"batch"' in data and AGENT.encode() in data]
    # batch 2 with the records that came with it
    log = [data for place, data in enumerate(keeper.log) if not places[1] - 2 <= place <= places[1]]
    assert findings(log) == [("LM6073", 3)]


def test_batches_that_were_reordered_are_named() -> None:
    keeper = Keeper()
    for number in range(3):
        keeper.batch([make(number)])
    one, two, three = (keeper.log[at : at + 2] for at in (0, 2, 4))
    assert [code for code, _ in findings([*one, *three, *two])] == ["LM6073", "LM6076"]
    assert findings([*two, *three]) == [("LM6073", 2)]
    assert findings([*two, *three], is_whole=False) == []


@settings(max_examples=examples(60), deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["drop", "swap", "change", "repeat", "add"]))
def test_no_record_of_an_agent_is_dropped_changed_moved_or_made_up_unseen(chance: random.Random, how: str) -> None:
    log = list(usual().log)
    held = [place for place, data in enumerate(log) if b'"source":"t"' in data]
    place = chance.choice(held)
    match how:
        case "drop":
            del log[place]
        case "swap":
            other = chance.choice([item for item in held if item != place])
            log[place], log[other] = log[other], log[place]
        case "change":
            log[place] = to_bytes({**json.loads(log[place]), "decision": "allow"})
        case "repeat":
            log.insert(chance.choice(held), log[place])
        case _:
            log.insert(chance.randrange(len(log) + 1), make(99))
    assert {code for code, _ in findings(log)} & {"LM6071", "LM6072"}, (how, place)


def test_a_batch_that_was_sent_again_with_what_came_meanwhile_verifies() -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    before = keeper.heads[AGENT]
    keeper.batch([make(2)])
    keeper.batch([make(2), make(3)], at=before)
    keeper.batch([make(4)])
    assert findings(keeper.log) == []


def test_an_agent_that_begins_anew_is_said() -> None:
    keeper = usual()
    keeper.batch([make(5), make(6)], at=(0, ""))
    keeper.batch([make(7)])
    assert findings(keeper.log) == [("LM6074", 1)]
    keeper.batch([make(8)], key=OTHER_KEY, at=(0, ""))
    assert findings(keeper.log) == [("LM6074", 1), ("LM6074", 1)]


def test_another_key_than_the_one_that_was_named_is_an_error() -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    assert findings(keeper.log, keys={AGENT: OTHER_KEY.public_key().public_bytes_raw()}) == [("LM6075", 1)]


def test_a_batch_that_names_another_predecessor_is_named() -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    keeper.batch([make(2)], at=(1, "0" * 64))
    assert findings(keeper.log) == [("LM6072", 2)]


def test_what_an_agent_calls_a_batch_is_none() -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    fake = to_bytes({**json.loads(keeper.log[-1]), "source": "t"})
    keeper.batch([fake, make(2)])
    assert findings(keeper.log) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": "1"}, {"sequence": 0}, {"records": 2001}, {"records": -1}, {"again": "AAA="}, {"again": "?"},
        {"again": "//" + "A" * 22}, {"signature": None}, {"agent": 4},
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_batch_is_named(fields: dict[str, object]) -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    row = {**json.loads(keeper.log[-1]), **fields}
    with pytest.raises(ValueError, match=r"field|number|place"):
        read_batch(row)
    assert findings([keeper.log[0], to_bytes(row)])[0] == ("LM6070", 1)


def test_a_record_that_was_quarantined_counts_by_the_hash_that_stands_in_its_place() -> None:
    keeper = Keeper()
    leaves = leaves_of([make(1), b"{}", make(2)])
    signature, digest = sign_batch(KEY, AGENT, 1, leaves, "")
    fields = batch_fields(
        agent=AGENT, sequence=1, previous="", digest=digest, signature=signature,
        key=KEY.public_key().public_bytes_raw(), leaves=leaves, again=[],
    )  # fmt: skip
    stands = own("quarantine", leaf=base64.b64encode(leaves[1]).decode(), reason="x", size=2)
    keeper.log = [make(1), stands, make(2), own("batch", **fields)]
    assert findings(keeper.log) == []
    other = own("quarantine", leaf=base64.b64encode(leaves[0]).decode(), reason="x", size=2)
    assert findings([make(1), other, make(2), keeper.log[-1]]) == [("LM6072", 1)]
