import os
import pathlib
import socket

import pytest

from enforcer import workloadfront
from enforcer.workloadfront import read_caller
from mesh.problems import Forbidden, Invalid


class OldKernel(socket.socket):
    """A socket of a kernel that has no SO_PEERPIDFD."""

    def getsockopt(self, level: int, option: int, size: int | None = None) -> object:  # type: ignore[override]
        if option == 77:
            raise OSError(92, "Protocol not available")
        return super().getsockopt(level, option) if size is None else super().getsockopt(level, option, size)


def pair(kind: type[socket.socket]) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return kind(fileno=ours.detach()), theirs


@pytest.mark.parametrize("kind", [socket.socket, OldKernel], ids=["peerpidfd", "pidfd-open"])
def test_the_kernel_says_who_connected(kind: type[socket.socket]) -> None:
    ours, theirs = pair(kind)
    with ours, theirs:
        found = read_caller(ours)
        assert (found.pid, found.uid, found.gid, found.is_alive) == (os.getpid(), os.getuid(), os.getgid(), True)
        assert not os.get_inheritable(found.pidfd)
        os.close(found.pidfd)


def test_on_an_old_kernel_another_process_with_the_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = workloadfront.read_stat, []

    class Later:
        start = 1

    def read(pid: int) -> object:
        calls.append(pid)
        return real(pid) if len(calls) == 1 else Later

    monkeypatch.setattr(workloadfront, "read_stat", read)
    before = os.listdir("/proc/self/fd")
    ours, theirs = pair(OldKernel)
    with ours, theirs, pytest.raises(Forbidden):
        read_caller(ours)
    assert os.listdir("/proc/self/fd") == before


def test_a_path_that_is_too_long_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM5001"):
        workloadfront.Front(tmp_path / ("x" * 120), tmp_path)
