import json
import pathlib

import pytest

from limen import attacks
from limen.attacks import read_answer
from mesh.problems import catalogue


def test_every_attack_has_codes_that_explain_its_refusal() -> None:
    for attack in attacks.TABLE:
        assert attack.codes, attack.name
        assert attack.codes <= set(catalogue())


def test_names_are_unique_and_guards_are_known() -> None:
    names = [attack.name for attack in attacks.TABLE]
    assert len(set(names)) == len(names)
    assert {attack.guard for attack in attacks.TABLE} == {"", "root", "nft"}


@pytest.mark.parametrize(
    ("answer", "denied", "code"),
    [
        ('HTTP/1.1 403 Forbidden\r\n\r\n{"code": "LM2302"}', True, "LM2302"),
        ('HTTP/1.1 403 Forbidden\r\n\r\n12\r\n{"code": "LM2302"}\r\n0\r\n\r\n', True, "LM2302"),
        ("HTTP/1.1 200 OK\r\n\r\n{}", False, ""),
        ("HTTP/1.1 404 Not Found\r\n\r\n", True, ""),
        ('HTTP/1.1 500 Oops\r\n\r\n{"secret": "all orders of everybody"}', False, ""),
        ("", True, ""),
        ("HTTP/1.1 403 X\r\n\r\n{broken}", True, ""),
    ],
    ids=["denied", "chunked", "allowed", "not-found", "leaked", "nothing", "broken-body"],
)
def test_answers_are_judged_by_status_code_and_loot(answer: str, denied: bool, code: str) -> None:
    found = read_answer(answer)
    assert (found.denied, found.code) == (denied, code)


def test_the_demo_offers_every_guard_name() -> None:
    text = (pathlib.Path(attacks.__file__).parent.parent / "enforcer" / "agent.py").read_text("utf-8")
    for guard in {attack.guard for attack in attacks.TABLE} - {""}:
        assert json.dumps(guard) in text
