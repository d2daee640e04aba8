import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from audit.search import Query
from limen.evidence import write_pack
from limen.releases import Policies
from mesh.problems import Invalid
from tests.audit.making import make, make_log, open_log


class NoPolicies(Policies):
    """A log without releases asks nobody."""

    def __init__(self) -> None:
        super().__init__(pathlib.Path("/nonexistent"))


def pack(tmp_path: pathlib.Path, query: Query) -> tuple[pathlib.Path, Any]:
    log = open_log(tmp_path / "audit")
    decided = {"caller": "spiffe://a/cart", "destination": "spiffe://a/db", "decision": "deny", "code": "LM2302"}
    log.append([make(number, **decided) if number % 100 == 0 else make(number) for number in range(300)])
    log.close()
    out = tmp_path / "pack"
    key = (tmp_path / "audit" / "key.pub").read_text()
    return out, write_pack(tmp_path / "audit", key, NoPolicies(), query, out)


def test_a_stranger_verifies_every_record_of_a_pack_alone(tmp_path: pathlib.Path) -> None:
    out, said = pack(tmp_path, Query(service="db"))
    assert (said["records"], said["size"]) == (3, 300)
    assert [json.loads(line)["n"] for line in (out / "records.jsonl").read_bytes().splitlines()] == [0, 100, 200]
    proofs = sorted(str(path) for path in (out / "proofs").iterdir())
    command = [sys.executable, "-I", str(out / "verify_log.py"), str(tmp_path / "audit" / "key.pub"), "--proof"]
    done = subprocess.run([*command, *proofs], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr
    changed = pathlib.Path(proofs[1])
    changed.write_text(changed.read_text().replace("deny", "okay"))
    assert subprocess.run([*command, *proofs], capture_output=True, check=False).returncode == 1
    assert "spiffe://a/cart" in (out / "report.html").read_text()


def test_a_pack_is_not_written_over_another(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pack").mkdir()
    with pytest.raises(Invalid) as caught:
        pack(tmp_path, Query())
    assert caught.value.code == "LM6096"


def test_a_pack_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path / "audit", 300)
    path = tmp_path / "audit" / "tile" / "entries" / "000"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Invalid):
        write_pack(tmp_path / "audit", key, NoPolicies(), Query(), tmp_path / "pack")
    assert [item.name for item in tmp_path.iterdir()] == ["audit"]
