"""Whom is asked, when and how often. With real engines in `test_docker.py` and `test_cri.py`."""

import asyncio
import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from enforcer.cgroup import Cgroup
from enforcer.process import Process, read_process
from enforcer.runtime import containers as module
from enforcer.runtime.container import Container, Pod
from enforcer.runtime.containers import AGAIN_S, Containers, Found, source_of
from mesh.problems import Problem, Unavailable
from tests.enforcer.runtime import engines

ID = "ab" * 32
POD = Pod(uid="0f6b3a1c-9f3e-4c55-8a53-111122223333", name="web-0", namespace="shop")


class Told:
    """A runtime that says what the test says."""

    def __init__(self, folder: pathlib.Path, *answers: Container | Problem | None, kind: Any = "docker") -> None:
        self.path, self.kind = str(folder), kind
        self.answers = list(answers)
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    @property
    def source(self) -> str:
        return f"{self.kind} here"

    async def inspect(self, container: str) -> Container | None:
        self.asked.append(container)
        if self.gate is not None:
            await self.gate.wait()
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Problem):
            raise found
        return found


def inside(**changes: Any) -> Process:
    """This process as if its path named a container."""
    return dataclasses.replace(read_process(os.getpid()), cgroup=Cgroup(container=ID, **changes))


def running(**changes: Any) -> Container:
    return dataclasses.replace(Container(id=ID, state="running", init=os.getpid()), **changes)


def code(found: Found) -> str:
    assert found.facts == ()
    return found.problem.code if found.problem is not None else ""


def test_a_process_in_no_container_asks_nobody(tmp_path: pathlib.Path) -> None:
    told = Told(tmp_path, None)
    process = dataclasses.replace(read_process(os.getpid()), cgroup=Cgroup())
    assert asyncio.run(Containers([told]).facts_of(process)) == Found()
    assert told.asked == []


def test_two_ids_are_none(tmp_path: pathlib.Path) -> None:
    process = dataclasses.replace(read_process(os.getpid()), cgroup=Cgroup(is_torn=True))
    assert code(asyncio.run(Containers([Told(tmp_path, running())]).facts_of(process))) == "LM3471"


@pytest.mark.parametrize(
    ("kind", "pod", "expected"),
    [("docker", "", "LM3471"), ("cri", "", "LM3470"), ("docker", "u", "LM3470"), ("cri", "u", "LM3471")],
)
def test_a_pods_containers_are_asked_of_cri_and_all_others_of_docker(
    tmp_path: pathlib.Path, kind: str, pod: str, expected: str
) -> None:
    told = Told(tmp_path, None, kind=kind)
    assert code(asyncio.run(Containers([told]).facts_of(inside(pod=pod)))) == expected


def test_a_usual_socket_that_is_not_there_is_asked_from_when_it_was(tmp_path: pathlib.Path) -> None:
    path, now = tmp_path / "none", [0.0]
    told = Told(path, Unavailable("LM3472", runtime="r", reason="x"))
    containers = Containers([told], optional=[str(path)], moment=lambda: now[0])
    found = asyncio.run(containers.facts_of(inside()))
    assert code(found) == "LM3470"
    # not a failure: who has no runtime to ask has the kernel's facts
    assert found.settle() == ()
    for change in (path.touch, path.unlink):
        change()
        now[0] += AGAIN_S
        assert code(asyncio.run(containers.facts_of(inside()))) == "LM3472"


def test_a_socket_that_was_named_is_asked_whether_it_is_there_or_not(tmp_path: pathlib.Path) -> None:
    told = Told(tmp_path / "none", Unavailable("LM3472", runtime="r", reason="x"))
    assert code(asyncio.run(Containers([told]).facts_of(inside()))) == "LM3472"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, "LM3471"),
        (running(state="ended", init=0), "LM3471"),
        (Unavailable("LM3472", runtime="r", reason="x"), "LM3472"),
        (Unavailable("LM3473", runtime="r", reason="x"), "LM3473"),
        (running(init=2**22 + 1), "LM3471"),
        (running(), "LM3471"),
    ],
    ids=["unknown", "ended", "silent", "unreadable", "first-process-gone", "first-process-elsewhere"],
)
def test_whatever_is_not_confirmed_gives_no_facts(
    tmp_path: pathlib.Path, answer: Container | Problem | None, expected: str
) -> None:
    found = asyncio.run(Containers([Told(tmp_path, answer)]).facts_of(inside()))
    assert code(found) == expected
    if isinstance(answer, Problem):
        # what may be answered later must not become a smaller set of facts now
        with pytest.raises(Unavailable):
            found.settle()
    else:
        assert found.settle() == ()


def test_a_refusal_is_remembered_for_a_moment(tmp_path: pathlib.Path) -> None:
    now = [0.0]
    told = Told(tmp_path, None)
    containers = Containers([told], moment=lambda: now[0])
    for _ in range(3):
        assert code(asyncio.run(containers.facts_of(inside()))) == "LM3471"
    assert len(told.asked) == 1
    now[0] = AGAIN_S
    asyncio.run(containers.facts_of(inside()))
    assert len(told.asked) == 2


def test_one_question_at_a_time_for_each_container(tmp_path: pathlib.Path) -> None:
    told = Told(tmp_path, None)

    async def run() -> None:
        told.gate = asyncio.Event()
        containers = Containers([told])
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(containers.facts_of(inside())) for _ in range(5)]
            while not told.asked:
                await asyncio.sleep(0)
            # one of them gives up: the others still get their answer
            waiting[1].cancel()
            told.gate.set()
        assert [code(task.result()) for index, task in enumerate(waiting) if index != 1] == ["LM3471"] * 4
        assert containers._asking == {}

    asyncio.run(run())
    assert len(told.asked) == 1


def test_a_runtime_that_hangs_holds_nobody_up_for_long(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN_S", 0.05)
    told = Told(tmp_path, None)

    async def run() -> Found:
        told.gate = asyncio.Event()
        return await Containers([told]).facts_of(inside())

    found = asyncio.run(run())
    assert code(found) == "LM3472"
    with pytest.raises(Unavailable):
        found.settle()


def test_a_container_that_is_starting_is_asked_for_again(tmp_path: pathlib.Path) -> None:
    starting = running(state="starting", init=0)
    told = Told(tmp_path, starting, starting, None)
    assert code(asyncio.run(Containers([told]).facts_of(inside()))) == "LM3471"
    assert len(told.asked) == 3


def test_a_container_that_never_starts_is_unavailable(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STARTING_S", (0.0, 0.0))
    told = Told(tmp_path, running(state="starting", init=0))
    assert code(asyncio.run(Containers([told]).facts_of(inside()))) == "LM3472"
    assert len(told.asked) == 3


def test_a_fact_is_of_whom_its_longest_beginning_names() -> None:
    sources = [("docker:", "a"), ("k8s:", "b"), ("k8s:sa", "c")]
    names = ["docker:id", "k8s:ns", "k8s:sa", "unix:uid"]
    assert [source_of(name, sources) for name in names] == ["a", "b", "c", ""]


# -- with a real group, which only root can make


@pytest.fixture
def grouped() -> Iterator[Process]:
    """A process in a group that is called like a container of Docker's."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    # of the unified hierarchy, or of the first there is
    top = min(engines.groups_of(os.getpid()), key=lambda found: found[0].name != "unified")[0]
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            with engines.moved(process.pid, [(top, f"docker/{ID}")]):
                yield read_process(process.pid)
                process.kill()
                process.wait()
        finally:
            process.kill()


@pytest.mark.root
def test_what_was_said_serves_while_the_first_process_lives(tmp_path: pathlib.Path, grouped: Process) -> None:
    told = Told(tmp_path, running(init=grouped.pid, image="shop:1"))
    containers = Containers([told])
    for _ in range(3):
        found = asyncio.run(containers.facts_of(grouped))
        assert found.facts == (("docker:id", ID), ("docker:image", "shop:1"))
        assert found.settle() == found.facts
    assert told.asked == [ID]
    os.kill(grouped.pid, 9)
    os.waitid(os.P_PID, grouped.pid, os.WEXITED | os.WNOWAIT)
    told.answers = [None]
    assert code(asyncio.run(containers.facts_of(grouped))) == "LM3471"
    assert told.asked == [ID, ID]


@pytest.mark.root
def test_a_pod_in_the_path_is_the_pod_that_the_runtime_names(tmp_path: pathlib.Path, grouped: Process) -> None:
    told = Told(tmp_path, running(init=grouped.pid, pod=POD), kind="cri")
    for uid, expected in ((POD.uid, ""), ("another", "LM3471")):
        process = dataclasses.replace(grouped, cgroup=dataclasses.replace(grouped.cgroup, pod=uid))
        found = asyncio.run(Containers([told]).facts_of(process))
        assert (("k8s:ns", "shop") in found.facts) is (expected == "")
        assert (found.problem.code if found.problem is not None else "") == expected


class Account:
    """Somebody who knows pods, or does not."""

    source = "kubelet there"

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(self, pod: Pod) -> Pod:
        if not self.name:
            raise Unavailable("LM3476", source=self.source, pod=pod.name, reason="x")
        return dataclasses.replace(pod, service_account=self.name, labels=pod.labels or (("app", "web"),))


@pytest.mark.root
def test_the_service_account_is_asked_of_kubernetes_and_its_silence_is_a_failure(
    tmp_path: pathlib.Path, grouped: Process
) -> None:
    process = dataclasses.replace(grouped, cgroup=dataclasses.replace(grouped.cgroup, pod=POD.uid))
    told = Told(tmp_path, running(init=grouped.pid, pod=POD), kind="cri")
    found = asyncio.run(Containers([told], Account("cart")).facts_of(process))
    assert ("k8s:sa", "cart") in found.facts
    wanted = {"k8s:ns": "cri here", "k8s:sa": "kubelet there", "k8s:pod-label:app": "kubelet there"}
    assert {name: source_of(name, found.sources) for name in wanted} == wanted
    silent = asyncio.run(Containers([told], Account("")).facts_of(process))
    assert code(silent) == "LM3476"
    with pytest.raises(Unavailable):
        silent.settle()


@pytest.mark.root
def test_a_container_that_began_again_is_asked_for_again(tmp_path: pathlib.Path, grouped: Process) -> None:
    told = Told(tmp_path, running(init=grouped.pid))
    containers = Containers([told])
    assert asyncio.run(containers.facts_of(grouped)).facts != ()
    kept = containers._kept[ID]
    containers._kept[ID] = dataclasses.replace(kept, init=dataclasses.replace(kept.init, start=kept.init.start - 1))
    assert asyncio.run(containers.facts_of(grouped)).facts != ()
    assert told.asked == [ID, ID]
    # a process that was read before its pid was another's is gone, and gets nothing
    assert code(asyncio.run(containers.facts_of(dataclasses.replace(grouped, start=0)))) == "LM3401"
