import json
import pathlib
from typing import Any

import pytest

from limen.__main__ import run
from tests.audit.making import id_of, make, open_log


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    log = open_log(tmp_path / "audit")
    issued = make(1, serial="0A0B", spiffe_id="spiffe://a/web").replace(b'"kind":"decision"', b'"kind":"issuance"')
    log.append([make(0), issued])
    log.close()
    return tmp_path


def test_an_issued_serial_is_proved(state: pathlib.Path, capsys: Any) -> None:
    assert run(["--state", str(state), "identity", "prove", "0A0B"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert (proof["id"], proof["index"]) == (id_of(1), 1)


def test_another_serial_is_a_no(state: pathlib.Path, capsys: Any) -> None:
    assert run(["--state", str(state), "identity", "prove", "0A0C"]) == 1
    assert "LM6056" in capsys.readouterr().err


def test_what_is_no_certificate_is_not_looked_up(state: pathlib.Path, capsys: Any) -> None:
    (state / "file").write_text("no certificate")
    assert run(["--state", str(state), "audit", "watch-issuance", str(state / "file")]) == 2
    assert "LM6057" in capsys.readouterr().err
    assert run(["--state", str(state), "audit", "watch-issuance"]) == 2
