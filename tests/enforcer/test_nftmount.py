import os
import pathlib
import subprocess
import sys

import pytest

import enforcer.nftmount

PROGRAM = [sys.executable, "-I", "-S", enforcer.nftmount.__file__]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting is root's")
def test_the_program_alone_sees_one_folder_in_the_place_of_another(tmp_path: pathlib.Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "x").write_text("seen")
    command = [*PROGRAM, str(tmp_path / "here"), str(tmp_path / "there"), "/bin/cat", str(tmp_path / "there" / "x")]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"seen"
    assert not (tmp_path / "there" / "x").exists()


def test_what_cannot_be_mounted_says_why(tmp_path: pathlib.Path) -> None:
    command = [*PROGRAM, str(tmp_path / "none"), str(tmp_path), "/bin/true"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"no mount namespace" in done.stderr
