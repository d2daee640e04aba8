import os
import pathlib
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from enforcer.native import wire
from limen import attacks
from limen.checks import host


def levels(found: list[host.Result]) -> dict[str, str]:
    return {item.code or item.text: item.level for item in found}


def test_this_installation_is_sound() -> None:
    assert {item.level for item in host.installation()} == {"ok"}


def test_a_state_that_others_may_look_into_is_an_error(tmp_path: pathlib.Path) -> None:
    assert {item.level for item in host.state(tmp_path / "none")} == {"ok"}
    (tmp_path / "ca").mkdir(mode=0o755)
    (tmp_path / "ca").chmod(0o755)
    assert levels(host.state(tmp_path))["LM5251"] == "error"
    (tmp_path / "ca").chmod(0o700)
    (tmp_path / "ca" / "wrap.key").write_bytes(b"x")
    assert levels(host.state(tmp_path)) == {"LM1209": "warning"}


def test_a_path_too_long_for_sockets_is_an_error() -> None:
    assert host.state(pathlib.Path("/" + "x" * 120))[0].code == "LM5001"


def test_this_kernel_is_asked_and_answers() -> None:
    found = host.kernel()
    assert len(found) == 9
    assert {item.level for item in found} <= {"ok", "warning"}
    is_root = os.geteuid() == 0
    assert ("LM5253" in {item.code for item in found}) is not is_root


def has_peer_pidfd() -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, 77))
        except OSError:
            return False
    return True


# an option that no kernel has stands for a kernel that has not this one
@pytest.mark.parametrize("option", [77, 9999], ids=["this-kernel", "old-kernel"])
def test_it_says_how_callers_are_held(option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SO_PEERPIDFD", option)
    (found,) = [item for item in host.kernel() if "callers of agent.sock" in item.text and "pidfd" in item.text]
    expected = "(SO_PEERPIDFD)" if option == 77 and has_peer_pidfd() else "pidfd_open, start time read twice"
    assert (found.level, expected in found.text) == ("ok", True)


def test_every_attack_of_the_table_is_listed() -> None:
    found = host.guards({"nft": "the kernel refused"})
    assert len(found) == len(attacks.TABLE)
    for attack, item in zip(attacks.TABLE, found, strict=True):
        assert attack.name in item.text
        assert item.level == ("warning" if attack.guard == "nft" else "ok")
        assert ("the kernel refused" in item.text) is (attack.guard == "nft")


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ({"type": "status", "left_out": {"nft": "the kernel refused"}}, {"nft": "the kernel refused"}),
        ({"type": "status", "left_out": {}}, {}),
        ({"type": "failed"}, {}),
    ],
    ids=["refused", "all-guarded", "another-answer"],
)
def test_a_running_agent_says_what_it_does_not_guard(
    tmp_path: pathlib.Path, answer: dict[str, object], missing: dict[str, str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with ThreadPoolExecutor(1) as other:
            told = other.submit(host.left_out, tmp_path / "s")
            accepted = listener.accept()[0]
            with accepted:
                assert wire.receive(accepted) == {"type": "status"}
                wire.send(accepted, answer)
                assert told.result() == missing


def test_without_an_agent_it_is_said_what_this_process_would_not_guard(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none")
    found = host.left_out(tmp_path / "none")
    assert "nft" in found
    assert ("root" in found) is (os.geteuid() != 0)
