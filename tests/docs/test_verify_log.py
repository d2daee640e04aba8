import ast
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.verify import prove, verify_log
from tests.audit.making import id_of, make_log
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
    assert (said.returncode, "record 0 " in said.stderr) == (1, True)


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
