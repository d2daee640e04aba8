import os
import socket

import pytest

from enforcer import sight as sight_module
from enforcer.holders import holders
from enforcer.sight import Sight, open_sight
from enforcer.sockdiag import SockDiag
from mesh.problems import Unavailable

is_root = os.geteuid() == 0


@pytest.mark.root
@pytest.mark.skipif(not is_root, reason="bpf(2) is for root")
def test_root_has_every_way_or_is_told_why_not() -> None:
    reasons: list[str] = []
    sight = open_sight(reasons.append)
    assert [sight.stamps, sight.sockets].count(None) == len(reasons)
    sight.close()


@pytest.mark.skipif(is_root, reason="root reads all")
def test_without_the_right_there_is_the_scan_and_a_reason() -> None:
    reasons: list[str] = []
    sight = open_sight(reasons.append)
    assert (sight.stamps, sight.sockets) == (None, None)
    assert all("errno" in reason for reason in reasons)
    sight.close()


def test_what_the_kernel_refuses_later_is_found_by_the_scan() -> None:
    class Refused:
        def holders(self, inode: int) -> frozenset[int]:
            raise Unavailable("LM3407", reason=str(inode))

        def close(self) -> None:
            return

    sight = Sight(diag=SockDiag(), sockets=Refused())  # type: ignore[arg-type]  # what it does is all that counts
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inode = os.fstat(ours.fileno()).st_ino
        assert sight.holders(inode) == holders(inode) == {os.getpid()}
    assert sight.beginner(1) is None
    sight.close()


@pytest.mark.parametrize("kind", ["pid", "time"])
def test_in_a_namespace_of_its_own_nothing_is_asked_of_the_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sight_module._FIRST, kind, 1)
    reasons: list[str] = []
    found = open_sight(reasons.append)
    assert (found.stamps, found.sockets) == (None, None)
    assert all(f"a {kind} namespace of its own" in reason for reason in reasons)
    found.close()
