import asyncio
import os
import subprocess
import sys

from enforcer.session import end, members


def start(script: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A session's leader, and the pids it prints on one line."""
    leader = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert leader.stdout is not None
    return leader, [int(word) for word in leader.stdout.readline().split()]


def reap(leader: subprocess.Popen[str]) -> None:
    leader.wait()
    assert leader.stdout is not None
    leader.stdout.close()


def test_all_of_a_session_is_ended_and_nothing_else() -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    leader, pids = start("sleep 600 & a=$!; sleep 600 & echo $a $!; wait")
    assert members(leader.pid) == {leader.pid, *pids}
    asyncio.run(end(leader.pid, 60.0))
    assert members(leader.pid) == frozenset()
    reap(leader)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_what_does_not_listen_is_killed() -> None:
    leader, _ = start("trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done")
    asyncio.run(end(leader.pid, 0.3))
    # by itself it never ends
    assert members(leader.pid) == frozenset()
    reap(leader)


def test_what_outlives_its_leader_is_ended_while_the_leader_is_not_reaped() -> None:
    leader, pids = start("sleep 600 >/dev/null & echo $!")
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert members(leader.pid) == set(pids)
    asyncio.run(end(leader.pid, 60.0))
    assert members(leader.pid) == frozenset()
    reap(leader)


def test_a_process_in_a_session_of_its_own_is_no_member() -> None:
    script = (
        f"{sys.executable} -c 'import os,time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)' & wait"
    )
    leader, (away,) = start(script)
    assert away not in members(leader.pid)
    asyncio.run(end(leader.pid, 60.0))
    os.kill(away, 9)
    reap(leader)
