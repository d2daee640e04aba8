import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from enforcer.execwatch import ExecWatch
from mesh.problems import Unavailable

ASK = """
from enforcer.execwatch import ExecWatch
from mesh.problems import Unavailable
try:
    ExecWatch()
except Unavailable as problem:
    print(problem.code)
"""


@pytest.fixture
def watch() -> Iterator[ExecWatch]:
    try:
        found = ExecWatch()
    except Unavailable as problem:
        pytest.skip(f"execs are told to root in the first namespaces alone: {problem.facts['reason']}")
    yield found
    found.close()


@pytest.mark.root
def test_an_exec_is_in_the_queue_before_its_program_says_a_word(watch: ExecWatch) -> None:
    for _ in range(50):
        before = time.monotonic_ns()
        with subprocess.Popen(["sh", "-c", "echo"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            heard = watch.read()
            assert before < heard[process.pid] < time.monotonic_ns()


@pytest.mark.root
def test_a_fork_is_no_exec_and_the_last_exec_counts(watch: ExecWatch) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert pid not in watch.read()
    with subprocess.Popen(["sh", "-c", "exec sh -c 'exec sleep 0'"]) as process:
        process.wait()
        heard = watch.read()
    assert len([found for found in heard if found == process.pid]) == 1


@pytest.mark.root
def test_events_that_were_lost_are_known_to_be_lost(watch: ExecWatch) -> None:
    watch._netlink.setsockopt(1, 33, 2304)  # SO_RCVBUFFORCE: room for a few
    assert watch.lost_at == 0
    before = time.monotonic_ns()
    subprocess.run(["sh", "-c", "for i in $(seq 100); do /bin/true; done"], check=True)
    watch.read()
    assert watch.lost_at > before


def test_nobody_but_root_in_the_first_namespaces_is_told() -> None:
    if os.geteuid() == 0:
        command = ["unshare", "--fork", "--pid", sys.executable, "-c", ASK]
    else:
        command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip("no namespaces can be made here")
    assert done.stdout.strip() == "LM3406"
