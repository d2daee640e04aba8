import os
import subprocess
from collections.abc import Iterator

import pytest

from enforcer.adopted import AdoptedProcess
from enforcer.process import read_stat
from mesh.problems import NotFound


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_it_is_waited_for_and_ended(child: "subprocess.Popen[bytes]") -> None:
    found = AdoptedProcess(child.pid, read_stat(child.pid).start)
    with pytest.raises(subprocess.TimeoutExpired):
        found.wait(0)
    found.kill()
    found.wait(60)
    child.wait()
    # one that is gone is left alone
    found.kill()
    found.wait()
    found.close()
    found.close()


def test_another_process_of_the_same_pid_is_not_taken_for_it(child: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(NotFound, match="LM3401"):
        AdoptedProcess(child.pid, read_stat(child.pid).start + 1)


def test_one_that_ended_is_not_adopted() -> None:
    child = subprocess.Popen(["true"])
    start = read_stat(child.pid).start
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(NotFound, match="LM3401"):
        AdoptedProcess(child.pid, start)
    child.wait()
    with pytest.raises(NotFound, match="LM3401"):
        AdoptedProcess(child.pid, start)
