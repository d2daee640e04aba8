import pathlib
import socket
import threading
from collections.abc import Mapping

import pytest

from enforcer import control
from enforcer.native import wire
from enforcer.runtime.options import Place
from limen.checks.result import Result
from limen.checks.runtimes import runtimes, shown

DOCKER = Place(kind="docker", path="/run/docker.sock")
STRANGE = Place(kind="docker", path="/run/other.sock", code="LM3474", reason="it belongs to user 1000")
CRI = Place(kind="cri", path="/run/containerd/containerd.sock")


def levels(found: list[Result]) -> list[tuple[str, str]]:
    return [(item.level, item.code) for item in found]


@pytest.mark.parametrize(
    ("found", "pods", "expected"),
    [
        ([], None, [("ok", "")]),
        ([DOCKER], None, [("ok", "")]),
        ([DOCKER, STRANGE], None, [("ok", ""), ("warning", "LM3474")]),
        ([CRI], None, [("ok", ""), ("ok", "")]),
        ([CRI], "kubelet at https://h:1", [("ok", ""), ("ok", "")]),
    ],
    ids=["none", "docker", "a-strangers", "cri-without-accounts", "cri"],
)
def test_every_socket_is_told_with_what_is_wrong(
    found: list[Place], pods: str | None, expected: list[tuple[str, str]]
) -> None:
    results = shown(found, pods)
    assert levels(results) == expected
    if STRANGE in found:
        assert "user 1000" in results[1].text
        assert results[1].hint
    assert not [item for item in results if "CRI-O" in item.text]
    if pods:
        assert results[-1].text.endswith("(experimental)")
    if CRI in found:
        assert ("no `k8s:sa`" in results[-1].text) is (pods is None)


def test_what_was_never_tried_says_so() -> None:
    found = shown([Place(kind="cri", path="/run/crio/crio.sock")], None)
    assert "CRI-O: experimental" in found[0].text


def answering(path: pathlib.Path, message: Mapping[str, object]) -> threading.Thread:
    """An agent that answers one question."""
    listener = control.listen(path)
    listener.setblocking(True)

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            wire.receive(connection)
            wire.send(connection, message)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_the_agent_of_this_host_says_what_it_finds(tmp_path: pathlib.Path) -> None:
    rows = [{"kind": "docker", "path": "/a", "code": "LM3472", "reason": "nobody is there"}]
    thread = answering(tmp_path / "control.sock", {"type": "status", "runtimes": rows, "pods": None})
    (found,) = runtimes(tmp_path)
    thread.join()
    assert (found.level, found.code) == ("warning", "LM3472")
    assert "`/a`: nobody is there" in found.text


def test_an_agent_of_before_says_nothing_of_it(tmp_path: pathlib.Path) -> None:
    thread = answering(tmp_path / "control.sock", {"type": "status"})
    assert levels(runtimes(tmp_path)) == [("ok", "")]
    thread.join()


def test_without_an_agent_the_usual_places_are_looked_at(tmp_path: pathlib.Path) -> None:
    assert {item.group for item in runtimes(tmp_path)} == {"containers"}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "control.sock"))
    assert {item.group for item in runtimes(tmp_path)} == {"containers"}
