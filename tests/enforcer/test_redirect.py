import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from enforcer import guard, redirect
from enforcer.egress import parse_exempt
from enforcer.redirect import Redirected, chains
from enforcer.stamp import unified_root
from mesh.problems import Unavailable
from tests.enforcer.test_guard import netns  # noqa: F401  a fixture
from tests.tools import needs

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="control groups and packet filters are root's")
ITEM = Redirected(group="system.slice/app.service/limen-1", port=15001, exempt=(parse_exempt("udp:10.0.0.53/32:53"),))


def test_tcp_is_redirected_by_group_and_all_else_rejected_but_for_what_is_named() -> None:
    text = "\n".join(chains([ITEM]))
    inside = 'socket cgroupv2 level 3 "system.slice/app.service/limen-1"'
    assert f"{inside} meta l4proto tcp redirect to :15001" in text
    assert f"{inside} jump workload_0" in text
    assert text.index("ip daddr 10.0.0.53/32 udp dport 53 accept") < text.index("counter reject")
    assert "skuid" not in text
    assert chains([]) == []


def test_networks_of_either_family_are_named_as_such() -> None:
    item = Redirected(
        group="a", port=1, exempt=(parse_exempt("udp:[fd00::53/128]:53"), parse_exempt("cidr:10.0.0.0/8"))
    )
    text = "\n".join(chains([item]))
    assert "ip6 daddr fd00::53/128 udp dport 53 accept" in text
    assert "10.0.0.0/8" not in text


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.root
@root_alone
def test_a_process_gets_a_group_of_its_own_below_the_one_it_is_in(sleeper: int) -> None:
    group = redirect.enclose(sleeper, f"limen-test-enclose-{os.getpid()}")
    own = pathlib.Path("/proc/self/cgroup").read_text().split("0::/", 1)[1].splitlines()[0]
    assert group == f"{own}/limen-test-enclose-{os.getpid()}".strip("/")
    assert f"0::/{group}" in pathlib.Path(f"/proc/{sleeper}/cgroup").read_text().splitlines()
    redirect.release(group)
    assert redirect.is_there(group)
    os.kill(sleeper, 9)
    os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOWAIT)
    while pathlib.Path(unified_root(), group, "cgroup.procs").read_text().strip():
        os.sched_yield()
    # a killed process leaves its group when it is reaped
    os.waitpid(sleeper, 0)
    redirect.release(group)
    assert not redirect.is_there(group)


@pytest.mark.root
@root_alone
def test_a_process_that_is_gone_is_in_no_group() -> None:
    with pytest.raises(Unavailable, match=r"LM3703.*errno 2"):
        redirect.enclose(2**22 - 1, f"limen-test-gone-{os.getpid()}")


def listed(*words: str) -> str:
    command = redirect.command("/usr/sbin/nft", "-n", "list", *words)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.root
@root_alone
@needs("nft")
@pytest.mark.usefixtures("netns")
def test_the_kernel_takes_the_table_with_both_and_gives_it_up_whole(sleeper: int) -> None:
    group = redirect.enclose(sleeper, f"limen-test-table-{os.getpid()}")
    item = Redirected(group=group, port=15001, exempt=ITEM.exempt)
    guarded = [guard.Guarded(app_port=18980, sidecar_uid=61184, listener=("::1", 18980))]
    try:
        guard.apply("limen_r", guarded, [item])
        before = listed("table", "inet", "limen_r")
        assert "redirect to :15001" in before
        with pytest.raises(Unavailable, match="LM3702"):
            guard.apply("limen_r", [], [item, Redirected(group="there/is/none", port=1)])
        assert listed("table", "inet", "limen_r") == before
        guard.remove("limen_r")
        assert listed("tables") == ""
    finally:
        os.kill(sleeper, 9)
        os.waitpid(sleeper, 0)
        redirect.release(group)
