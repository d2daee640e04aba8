import asyncio
import os
import pathlib
import socket
import tempfile

import pytest

from enforcer.attest import Launch
from enforcer.process import Process, read_process
from enforcer.runtime.containers import Containers, Found
from enforcer.runtime.docker import Docker
from enforcer.runtime.explaining import explained, runtimes_status
from mesh.problems import Invalid, NotFound

NODE = (("node:id", "n"),)


class Told(Containers):
    """Containers of which the test says what is found."""

    def __init__(self, found: Found) -> None:
        super().__init__([])
        self.found = found

    async def facts_of(self, process: Process) -> Found:
        del process
        return self.found


def test_the_facts_of_a_process_are_told_with_of_whom_they_are() -> None:
    found = Found(facts=(("docker:image", "shop:1"),), sources=(("docker:", "docker at /d"),))
    answer = asyncio.run(explained(os.getpid(), [], Told(found), NODE))
    facts = answer["facts"]
    assert isinstance(facts, list)
    assert ["docker:image", "shop:1"] in facts
    assert ["unix:uid", str(os.getuid())] in facts
    assert facts[-1] == ["node:id", "n"]
    assert (answer["sources"], answer["missing"]) == ({"docker:image": "docker at /d"}, None)


def test_what_could_not_be_found_out_is_told_with_its_code() -> None:
    problem = NotFound("LM3470", pid=1, container="c", kind="docker")
    answer = asyncio.run(explained(os.getpid(), [], Told(Found(problem=problem)), NODE))
    assert answer["missing"] == {"code": "LM3470", "reason": str(problem)}


def test_a_launched_workload_is_described_by_its_launch_alone() -> None:
    me = read_process(os.getpid())
    launch = Launch(
        pid=me.pid, start=me.start, session=0, layout=(), device=0, inode=0, uid=0, facts=(("launch:path", "/x"),)
    )
    answer = asyncio.run(explained(os.getpid(), [launch], Told(Found(facts=(("docker:id", "c"),))), NODE))
    assert answer["facts"] == [["launch:path", "/x"], ["node:id", "n"]]


@pytest.mark.parametrize("pid", [None, "1", True, 1.0])
def test_a_pid_is_a_whole_number(pid: object) -> None:
    with pytest.raises(Invalid):
        asyncio.run(explained(pid, [], Told(Found()), NODE))


def test_the_sockets_are_told_as_they_are_now() -> None:
    with tempfile.TemporaryDirectory(dir="/run" if os.geteuid() == 0 else None) as name:
        path = pathlib.Path(name, "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            path.chmod(0o666)
            answer = asyncio.run(runtimes_status(Containers([Docker(str(path))])))
    assert answer["pods"] is None
    (row,) = answer["runtimes"]  # type: ignore[misc]
    assert (row["kind"], row["path"], row["code"]) == ("docker", str(path), "LM3474")
