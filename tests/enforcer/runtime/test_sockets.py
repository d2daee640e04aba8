import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from enforcer.runtime.sockets import check_socket, is_there
from mesh.problems import Unavailable


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder that nobody else could have put there."""
    with tempfile.TemporaryDirectory(dir="/run" if os.geteuid() == 0 else None) as name:
        yield pathlib.Path(name)


@pytest.fixture
def path(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        sock.listen()
        (folder / "s").chmod(0o660)
        yield folder / "s"


def refused(path: pathlib.Path) -> str:
    with pytest.raises(Unavailable) as caught:
        check_socket(str(path))
    return caught.value.code


def test_a_socket_of_ours_is_believed_and_found_behind_links(folder: pathlib.Path, path: pathlib.Path) -> None:
    assert check_socket(str(path)) == str(path.resolve())
    (folder / "link").symlink_to(path)
    assert check_socket(str(folder / "link")) == str(path.resolve())
    assert is_there(str(folder / "link"))
    assert not is_there(str(folder / "none"))


@pytest.mark.parametrize("mode", [0o666, 0o662, 0o777])
def test_a_socket_that_everybody_may_write_to_is_refused(path: pathlib.Path, mode: int) -> None:
    path.chmod(mode)
    assert refused(path) == "LM3474"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_where_others_may_replace_it_is_refused(folder: pathlib.Path, path: pathlib.Path, mode: int) -> None:
    folder.chmod(mode)
    assert refused(path) == "LM3474"
    folder.chmod(0o700)


def test_a_folder_with_the_sticky_bit_keeps_hands_off(folder: pathlib.Path, path: pathlib.Path) -> None:
    folder.chmod(0o1777)
    assert check_socket(str(path)) == str(path.resolve())


def test_a_file_is_no_socket(folder: pathlib.Path) -> None:
    (folder / "f").touch(mode=0o600)
    assert refused(folder / "f") == "LM3474"


def test_nobody_there_is_silence(folder: pathlib.Path) -> None:
    assert refused(folder / "none") == "LM3472"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "left"))
    (folder / "left").chmod(0o600)
    assert refused(folder / "left") == "LM3472"
    (folder / "loop").symlink_to(folder / "loop")
    assert refused(folder / "loop") == "LM3472"


LISTEN = """
import os, socket, sys
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_strangers_socket_folder_or_listener_is_refused(folder: pathlib.Path, path: pathlib.Path) -> None:
    os.chown(path, 65534, 65534)
    assert refused(path) == "LM3474"
    os.chown(path, 0, 0)
    os.chown(folder, 65534, 65534)
    assert refused(path) == "LM3474"
    os.chown(folder, 0, 0)
    # owner and mode are as they should be, and a stranger listens: the kernel says so
    (folder / "d").mkdir(mode=0o700)
    os.chown(folder / "d", 65534, 65534)
    folder.chmod(0o711)
    other = folder / "d" / "s"
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(other)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.chown(other, 0, 0)
        other.chmod(0o600)
        os.chown(folder / "d", 0, 0)
        with pytest.raises(Unavailable) as caught:
            check_socket(str(other))
        assert caught.value.facts["reason"] == "user 65534 listens at it"
        process.communicate(b"")
