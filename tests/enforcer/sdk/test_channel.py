"""What a program hears from its agent and tells it, through an agent's absence too."""

from collections.abc import Callable

import pytest

from enforcer.native import wire
from enforcer.sdk import Limen
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, policies
from tests.enforcer.sdk.conftest import Teller, eventually

Make = Callable[..., tuple[Limen, Teller]]


def decide(limen: Limen, caller: str = OPS) -> str:
    """The effect for a caller, on a port that is decided by the connection."""
    judgement, _ = limen.judge_connection(limen.contact(caller, 8080, "127.0.0.1"))
    return str(judgement.decision.effect)


TCP = {"id": "tcp", "effect": "allow", "from": [OPS]}


def test_it_is_told_everything_and_says_what_it_applied(limens: Make) -> None:
    limen, teller = limens(DB, policies(ALLOW_WEB))
    program = teller.programs[0]
    assert program.wait("ready")["inbound"] == []
    assert program.wait("trusts", lambda found: found["trust"] == 1)
    assert program.wait("applied")["snapshot"] == limen.snapshot == "sha256:1"
    assert (limen.spiffe_id, limen.serves) == (DB, (("127.0.0.1", 8080),))


def test_other_policies_decide_the_next_question(limens: Make) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    assert decide(limen) == "allow"
    teller.policy(policies(protocol="tcp"), 2)
    assert decide(limen) == "deny"
    assert decide(limen, WEB) == "deny"


def test_a_lower_epoch_is_refused_and_the_last_policies_stay(limens: Make) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    teller.policy(policies(TCP, protocol="tcp"), 5)
    teller.say({"type": "policy", "epoch": 4, "active": None, "candidate": None})
    assert teller.programs[0].wait("failed")["code"] == "LM3015"
    assert (decide(limen), limen.snapshot) == ("allow", "sha256:5")


def test_a_broken_message_changes_nothing(limens: Make) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    program = teller.programs[0]
    program.send({"type": "policy", "epoch": 9, "active": {"hash": "x", "policies": {"schema": 77}}, "candidate": None})
    program.send({"type": "identity"})
    program.send({"type": "attested", "conn": 1})
    program.send({"type": "unheard-of"})
    assert eventually(lambda: len([found for found in program.heard if found["type"] == "failed"]) >= 3)
    assert (decide(limen), limen.spiffe_id) == ("allow", DB)


def test_the_agents_absence_changes_nothing_and_what_it_missed_is_told_to_the_next_one(limens: Make) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    teller.end()
    assert decide(limen) == "allow"
    assert decide(limen, WEB) == "deny"
    teller.programs.clear()
    teller.begin()
    assert eventually(lambda: len(teller.programs) == 1)
    program = teller.programs[0]
    assert program.wait("applied")["epoch"] == 1
    assert program.record(decision="deny")["caller"] == WEB
    assert program.record(decision="allow")["caller"] == OPS


def test_a_stream_that_cannot_be_read_is_begun_anew(limens: Make) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    teller.programs[0].sock.sendall(b"\xff\xff\xff\xff")
    assert eventually(lambda: len(teller.programs) == 2)
    assert teller.programs[1].wait("applied")
    assert decide(limen) == "allow"


def test_what_was_not_acknowledged_is_sent_again(limens: Make) -> None:
    limen, teller = limens(DB, policies(protocol="tcp"))
    teller.programs[0].acknowledges = False
    decide(limen)
    found = teller.programs[0].record(decision="deny")
    teller.programs[0].send({"type": "policy"})
    teller.programs[0].sock.sendall(b"\xff\xff\xff\xff")
    assert eventually(lambda: len(teller.programs) == 2)
    assert teller.programs[1].record(decision="deny")["id"] == found["id"]


def test_keys_of_issuers_are_taken(limens: Make) -> None:
    _, teller = limens(DB, policies())
    program = teller.programs[0]
    program.send({"type": "keys", "sets": []})
    program.send({"type": "keys", "sets": [{"source": "x", "jwks": "no key set", "until": "2030-01-01T00:00:00Z"}]})
    assert program.wait("failed")["code"].startswith("LM")  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", [{"type": "stop"}, {"type": "listeners", "serves": "x"}], ids=["stop", "again"])
def test_words_that_end_a_sidecar_do_not_end_a_program(limens: Make, message: wire.Message) -> None:
    limen, teller = limens(DB, policies(TCP, protocol="tcp"))
    teller.programs[0].send(message)
    teller.policy(policies(protocol="tcp"), 2)
    assert decide(limen) == "deny"


def test_what_is_left_is_told_when_it_closes(limens: Make, corp: Realm) -> None:
    limen, teller = limens(DB, policies(protocol="tcp"))
    decide(limen)
    limen.close()
    # heard in a thread of its own
    assert eventually(lambda: len(teller.programs[0].records(decision="deny")) == 1)
