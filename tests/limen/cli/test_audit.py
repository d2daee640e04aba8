import base64
import json
import pathlib
from typing import Any

import pytest

from tests.audit.making import KEY, OTHER_KEY, id_of, make, open_log
from tests.audit.signing import AGENT, Keeper
from tests.limen.cli.auditing import call, made


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    return made(tmp_path)


def test_verify_says_yes_with_zero(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "verify", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["records"], found["findings"]) == (True, 300, [])
    assert call(state, "verify") == 0
    assert "300 records" in capsys.readouterr().out


def test_verify_says_no_with_one_and_names_the_place(state: pathlib.Path, capsys: Any) -> None:
    path = state / "audit" / "tile" / "entries" / "000"
    data = bytearray(path.read_bytes())
    data[2 + len(make(0)) + 2 + 20] ^= 1
    path.write_bytes(data)
    assert call(state, "verify", "-o", "json") == 1
    found = json.loads(capsys.readouterr().out)
    offset, size = 2 + len(make(0)), 2 + len(make(1))
    where = {"index": 1, "path": "tile/entries/000", "offset": offset, "size": size}
    assert [(item["code"], item["facts"]) for item in found["findings"]] == [("LM6034", where)]
    assert call(state, "verify") == 1
    said = capsys.readouterr()
    assert "record 1 is not the one that was logged" in said.err


def test_a_copy_is_verified_and_proved_without_a_state(
    state: pathlib.Path, capsys: Any, tmp_path: pathlib.Path
) -> None:
    words = ["--log", str(state / "audit"), "--key", str(state / "audit" / "key.pub"), "-o", "json"]
    assert call(tmp_path / "none", "verify", *words) == 0
    assert capsys.readouterr().err == ""
    assert call(tmp_path / "none", "prove", id_of(299), *words) == 0
    proof = json.loads(capsys.readouterr().out)
    assert (proof["id"], proof["index"], proof["size"]) == (id_of(299), 299, 300)


def test_a_copy_that_brings_its_own_key_is_warned_of(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "verify", "--log", str(state / "audit")) == 0
    assert "--key" in capsys.readouterr().err


def test_prove_shows_the_path(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "prove", id_of(0), "-o", "table") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 9
    assert call(state, "prove", id_of(999)) == 2


def test_checkpoint_prints_the_note(state: pathlib.Path, capsys: Any) -> None:
    assert call(state, "checkpoint") == 0
    assert capsys.readouterr().out == (state / "audit" / "checkpoint").read_text()
    assert call(state, "checkpoint", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["size"] == 300


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["verify", "--log", "/nonexistent"], 2, "LM6054"),
        (["verify", "--key", "/nonexistent"], 2, "LM6053"),
        (["verify", "--key", "/etc/hostname"], 2, "LM6030"),
    ],
)
def test_what_cannot_be_done_says_so(
    state: pathlib.Path, capsys: Any, words: list[str], status: int, code: str
) -> None:
    assert call(state, *words) == status
    assert code in capsys.readouterr().err


def test_verify_holds_agents_to_the_keys_that_are_given(tmp_path: pathlib.Path, capsys: Any) -> None:
    keeper = Keeper()
    keeper.batch([make(1)])
    log = open_log(tmp_path / "audit")
    log.append(keeper.log)
    log.close()
    given = {
        name: f"{AGENT}={base64.b64encode(key.public_key().public_bytes_raw()).decode()}"
        for name, key in (("its", KEY), ("other", OTHER_KEY))
    }
    assert call(tmp_path, "verify", "--agent-key", given["its"]) == 0
    capsys.readouterr()
    assert call(tmp_path, "verify", "--agent-key", given["other"], "-o", "json") == 1
    assert [item["code"] for item in json.loads(capsys.readouterr().out)["findings"]] == ["LM6075"]
    for text in ("", AGENT, f"{AGENT}=AAAA", f"agent={given['its'].partition('=')[2]}"):
        assert call(tmp_path, "verify", "--agent-key", text) == 2
        assert "Ed25519 key in base64" in capsys.readouterr().err
