import ast
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.record import record, to_bytes
from audit.retention import Retention
from audit.verify import prove, verify_log
from tests.audit.making import KEY, ORIGIN, START, id_of, make, make_log, open_log
from tests.examples import examples

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "verify_log.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = ModuleType("verify_log")
    exec(compile(SCRIPT.read_text("utf-8"), str(SCRIPT), "exec"), found.__dict__)
    return found


@pytest.fixture(scope="module")
def good() -> tuple[pathlib.Path, str]:
    folder = pathlib.Path(tempfile.mkdtemp())
    return folder, make_log(folder, 250, 40, 10)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    # isolated: nothing of ours can be imported
    return subprocess.run([sys.executable, "-I", str(SCRIPT), *words], capture_output=True, text=True, check=False)


def test_it_is_short_and_imports_nothing_of_ours() -> None:
    text = SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    names = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {name.split(".")[0] for name in names} <= {"cryptography", *sys.stdlib_module_names}


@pytest.mark.system
def test_a_stranger_verifies_a_log_and_a_proof(good: tuple[pathlib.Path, str], tmp_path: pathlib.Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text(good[1])
    said = run(str(key), str(good[0]))
    assert (said.returncode, "300 records verified" in said.stdout) == (0, True)
    (tmp_path / "proof.json").write_text(json.dumps(prove(good[0], good[1], id_of(299))))
    assert run(str(key), "--proof", str(tmp_path / "proof.json")).returncode == 0
    assert run().returncode == 1
    shutil.copytree(good[0], tmp_path / "log")
    (tmp_path / "log" / "tile" / "0" / "000").write_bytes(bytes(8192))
    said = run(str(key), str(tmp_path / "log"))
    assert (said.returncode, "record 0," in said.stderr, "record 255," in said.stderr) == (1, True, True)


@pytest.mark.parametrize("sizes", [(), (1,), (255,), (256,), (257,), (512, 1)], ids=str)
def test_agrees_with_our_verifier_on_whole_logs(
    script: ModuleType, tmp_path: pathlib.Path, sizes: tuple[int, ...]
) -> None:
    key = make_log(tmp_path, *sizes)
    (tmp_path / "key").write_text(key)
    assert script.main([str(tmp_path / "key"), str(tmp_path)]) == 0
    assert verify_log(tmp_path, key).is_good


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_refuses_any_changed_byte_that_it_reads(
    script: ModuleType, good: tuple[pathlib.Path, str], data: st.DataObject
) -> None:
    read = [
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    ]
    path = data.draw(st.sampled_from(read))
    content = bytearray((good[0] / path).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    # the last characters of base64 and line ends carry bits that no reader needs
    if path == "checkpoint" and place >= len(content) - 4:
        return
    content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copytree(good[0], copy)
        (copy / path).write_bytes(content)
        (copy / "key").write_text(good[1])
        assert script.main([str(copy / "key"), str(copy)]) == 1


@pytest.mark.parametrize("name", ["record", "checkpoint", "id"])
def test_refuses_a_changed_proof(
    script: ModuleType, good: tuple[pathlib.Path, str], tmp_path: pathlib.Path, name: str
) -> None:
    proof = prove(good[0], good[1], id_of(7))
    text = str(proof[name])
    proof[name] = text[:10] + ("0" if text[10] != "0" else "1") + text[11:]
    (tmp_path / "proof").write_text(json.dumps(proof))
    (tmp_path / "key").write_text(good[1])
    assert script.main([str(tmp_path / "key"), "--proof", str(tmp_path / "proof")]) == 1


def test_agrees_on_a_pruned_log_and_misses_what_no_record_lets_go(
    script: ModuleType, tmp_path: pathlib.Path, capsys: Any
) -> None:
    log = open_log(tmp_path)
    log.append([make(number) for number in range(600)])
    fields = Retention().with_pruned([0]).fields()
    log.append([to_bytes(record("retention", now=START, random=bytes(10), source="server:t", **fields))])
    log.remove([0])
    log.close()
    words = [str(tmp_path / "key.pub"), str(tmp_path)]
    assert script.main(words) == 0
    assert "601 records verified, 256 of them pruned" in capsys.readouterr().out
    (tmp_path / "tile" / "entries" / "001").unlink()
    assert script.main(words) == 1
    assert "records from 256 on are missing" in capsys.readouterr().err


def test_names_every_wrong_place_by_its_file_and_its_bytes(
    script: ModuleType, good: tuple[pathlib.Path, str], tmp_path: pathlib.Path, capsys: Any
) -> None:
    copy = tmp_path / "log"
    shutil.copytree(good[0], copy)
    words = [str(copy / "key.pub"), str(copy)]
    begins = [sum(2 + len(make(number)) for number in range(count)) for count in range(257)]
    bundle = bytearray((copy / "tile/entries/000").read_bytes())
    for number in (7, 99):
        bundle[begins[number] + 20] ^= 1
    (copy / "tile/entries/000").write_bytes(bundle)
    assert script.main(words) == 1
    said = capsys.readouterr().err
    assert "the root of the records is not signed" in said
    for number in (7, 99):
        place = f"record {number}, bytes {begins[number]} to {begins[number + 1] - 1} of tile/entries/000, and its hash"
        assert f"{place}, bytes {number * 32} to {number * 32 + 31} of tile/0/000, differ" in said
    # a tile alone: the records still lead to the root
    (copy / "tile/entries/000").write_bytes((good[0] / "tile/entries/000").read_bytes())
    top = bytearray((copy / "tile/1/000.p/1").read_bytes())
    top[5] ^= 1
    (copy / "tile/1/000.p/1").write_bytes(top)
    assert script.main(words) == 1
    said = capsys.readouterr().err
    assert "the root of the records is signed\nbytes 0 to 31 of tile/1/000.p/1 are not the hash" in said
    # and a bundle that ends too early, at the byte where it does
    (copy / "tile/entries/001.p/44").write_bytes(bundle[: begins[3] + 1])
    assert script.main(words) == 1
    assert f"tile/entries/001.p/44 breaks off after 3 of 44 records, at byte {begins[3]}" in capsys.readouterr().err


def test_a_signed_size_beyond_the_files_ends(script: ModuleType, tmp_path: pathlib.Path) -> None:
    key = make_log(tmp_path, 5)
    (tmp_path / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(origin=ORIGIN, size=10**18, root=bytes(32)), KEY))
    with pytest.raises(ValueError, match="not signed") as caught:
        script.verify_log(tmp_path, key)
    assert len(str(caught.value).splitlines()) == 1001
