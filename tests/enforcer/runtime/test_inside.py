"""The kernel's word on who is inside; with real containers in `test_docker.py` and `test_cri.py`."""

import dataclasses
import os
import subprocess
import sys

import pytest

from enforcer.process import read_process
from enforcer.runtime.inside import Inside, misfit, read_inside
from mesh.problems import NotFound

ID = "ab" * 32


def here(**changes: object) -> Inside:
    """This process as the first one of something: without a container its id is empty."""
    return dataclasses.replace(read_inside(os.getpid()), **changes)  # type: ignore[arg-type]


def test_a_process_is_where_its_first_process_is() -> None:
    assert misfit(read_process(os.getpid()), here().container, here()) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"container": ID}, "the runtime names"),
        ({"start": sys.maxsize}, "it began before"),
        ({"groups": (("", "/docker/x"),)}, "in other control groups"),
        ({"namespaces": ((0, 0), (0, 0))}, "in another pid namespace"),
    ],
    ids=["another-container", "older", "elsewhere", "another-namespace"],
)
def test_whoever_differs_is_not_inside(changes: dict[str, object], reason: str) -> None:
    assert reason in misfit(read_process(os.getpid()), here().container, here(**changes))


def test_a_process_in_another_mount_namespace_is_not_inside() -> None:
    found = here()
    changed = here(namespaces=(found.namespaces[0], (0, 0)))
    assert "in another mnt namespace" in misfit(read_process(os.getpid()), found.container, changed)


def test_a_process_that_left_its_container_is_not_inside() -> None:
    assert misfit(read_process(os.getpid()), ID, here(container=ID)) == "it is in it no longer"


def test_a_pid_that_means_another_process_now_is_gone() -> None:
    me = read_process(os.getpid())
    for other in (dataclasses.replace(me, start=me.start - 1), dataclasses.replace(me, layout=(1,))):
        with pytest.raises(NotFound) as caught:
            misfit(other, here().container, here())
        assert caught.value.code == "LM3401"


def test_a_process_that_ended_is_gone() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    with pytest.raises(NotFound) as caught:
        read_inside(done.pid)
    assert caught.value.code == "LM3401"
