import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from limen import attacks
from limen.demo.story import Summary


def test_a_summary_is_good_only_when_everything_is() -> None:
    summary = Summary(state="x")
    assert not summary.is_good
    summary.legitimate = {"sent": 2, "allowed": 2}
    summary.attacks = [{"name": "a", "denied": True, "code": "LM2302", "explained": True}]
    summary.audit = {"records": 1, "verified": True}
    assert summary.is_good
    for spoiled in (
        {"legitimate": {"sent": 2, "allowed": 1}},
        {"audit": {"records": 1, "verified": False}},
        {"attacks": [{"name": "a", "denied": False, "code": "", "explained": False}]},
    ):
        other = Summary(state="x", legitimate={"sent": 2, "allowed": 2}, attacks=summary.attacks, audit=summary.audit)
        for name, value in spoiled.items():
            setattr(other, name, value)
        assert not other.is_good


@pytest.mark.system
@pytest.mark.slow
def test_the_whole_loop_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "demo", "--seconds", "6", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {
        "state", "identities", "handshakes", "flows", "proposal", "plan", "approvals", "legitimate", "attacks",
        "left_out", "audit", "seconds",
    }  # fmt: skip
    assert found["legitimate"]["sent"] == found["legitimate"]["allowed"] > 0
    assert len(found["attacks"]) + sum(
        1 for row in found["left_out"] if row["name"] in {attack.name for attack in attacks.TABLE}
    ) == len(attacks.TABLE)
    assert all(row["denied"] and row["explained"] for row in found["attacks"])
    assert found["audit"]["verified"] is True
    assert not pathlib.Path(found["state"]).exists()


def of_session(pids: set[int]) -> set[int]:
    """The processes that descend from some, as far as the kernel still knows."""
    found = set(pids)
    for _ in range(6):
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    text = (entry / "stat").read_text("ascii")
                except OSError:
                    continue
                if int(text[text.rindex(")") + 2 :].split()[1]) in found:
                    found.add(int(entry.name))
    return found


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("step", ["   trust domain", "2 ", "3 "], ids=["starting", "launching", "traffic"])
def test_ctrl_c_leaves_no_process_and_no_file(
    step: str, tmp_path: pathlib.Path, alive: Callable[[int], bool], until: Callable[..., object]
) -> None:
    command = [sys.executable, "-m", "limen", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)} if len(str(tmp_path)) < 40 else dict(os.environ)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "state in " in line:
                root = pathlib.Path(line.partition("state in ")[2].partition(";")[0])
            if line.startswith(step):
                break
        family = of_session({process.pid}) - {process.pid}
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(timeout=200) == 130
    # who reaps them, and when, is not ours to say
    until(lambda: not [pid for pid in family if alive(pid)])
    assert not root.exists()
