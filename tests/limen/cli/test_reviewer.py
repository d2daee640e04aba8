import json
import stat
from typing import Any

import pytest

from limen.__main__ import run
from policyengine import dsse
from policyengine.keyfile import is_encrypted, read_key
from policyengine.reviewers import reviewer_from_json, reviewer_set_from_json


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: Any) -> None:
    monkeypatch.delenv("LIMEN_REVIEWER_PASSPHRASE", raising=False)


def init(path: Any, *words: str) -> int:
    return run(["reviewer", "init", "--name", "ada", "--out", str(path), *words])


def test_makes_a_key_and_its_public_half(tmp_path: Any, capsys: Any) -> None:
    assert init(tmp_path / "k", "--team", "team-data", "-o", "json") == 0
    said = json.loads(capsys.readouterr().out)
    public = reviewer_from_json(json.loads((tmp_path / "k.pub.json").read_text()))
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert public.public_key == dsse.public_bytes(read_key(tmp_path / "k", None))
    assert (public.name, public.teams, public.key_id) == ("ada", ("team-data",), said["key"])


def test_encrypts_with_the_passphrase_of_the_environment(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("LIMEN_REVIEWER_PASSPHRASE", "correct horse")
    assert init(tmp_path / "k") == 0
    assert is_encrypted(tmp_path / "k")
    read_key(tmp_path / "k", b"correct horse")


def test_says_that_a_key_is_not_encrypted(tmp_path: Any, capsys: Any) -> None:
    init(tmp_path / "k")
    assert "not encrypted" in capsys.readouterr().err


def test_makes_the_local_key_in_the_state_directory(tmp_path: Any, capsys: Any) -> None:
    assert run(["--state", str(tmp_path / "state"), "reviewer", "init"]) == 0
    assert str(tmp_path / "state" / "reviewer.key") in capsys.readouterr().out


def test_never_overwrites_a_key(tmp_path: Any, capsys: Any) -> None:
    init(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    assert init(tmp_path / "k") == 2
    assert "LM2408" in capsys.readouterr().err
    assert (tmp_path / "k").read_bytes() == before


def make_set(tmp_path: Any, *words: str) -> int:
    where = ["--trust-domain", "corp.test", "--out", str(tmp_path / "set.json")]
    return run(["reviewer", "set", *where, *words])


def test_makes_a_first_set(tmp_path: Any, capsys: Any) -> None:
    for name in ("a", "b", "r"):
        run(["reviewer", "init", "--name", name, "--out", str(tmp_path / name)])
    members = ["--member", str(tmp_path / "a.pub.json"), "--member", str(tmp_path / "b.pub.json")]
    recovery = ["--recovery", str(tmp_path / "r.pub.json")]
    capsys.readouterr()
    assert make_set(tmp_path, *members, *recovery, "--threshold", "2") == 0
    found = reviewer_set_from_json(json.loads((tmp_path / "set.json").read_text()))
    assert found.hash in capsys.readouterr().out
    assert ([reviewer.name for reviewer in found.reviewers], found.threshold) == (["a", "b"], 2)
    assert found.recovery_key is not None


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--threshold", "2"], id="threshold-above-the-number"),
        pytest.param(["--trust-domain", "Corp"], id="no-trust-domain"),
        pytest.param(["--member", "/nowhere.pub.json"], id="no-such-member"),
    ],
)
def test_refuses_a_set_that_breaks_a_rule(tmp_path: Any, capsys: Any, words: list[str]) -> None:
    run(["reviewer", "init", "--name", "a", "--out", str(tmp_path / "a")])
    assert make_set(tmp_path, "--member", str(tmp_path / "a.pub.json"), *words) == 2
    assert "LM2403" in capsys.readouterr().err
    assert not (tmp_path / "set.json").exists()
