"""Docker's Engine API: of an engine and of Podman's service, both for real, and of everything that answers oddly."""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from enforcer.process import read_process
from enforcer.runtime.containers import Containers, Found
from enforcer.runtime.docker import MAX_BYTES, Docker
from mesh.problems import NotFound, Unavailable
from tests.enforcer.runtime import engines
from tests.enforcer.runtime.stage import Replies, staged

ID, IMAGE = "ab" * 32, "sha256:" + "cd" * 32


def told(**changes: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Image": IMAGE,
        "State": {"Status": "running", "Pid": 7},
        "Config": {"Image": "shop:1", "Labels": {"app": "shop"}},
        **changes,
    }


def inspect(replies: Replies) -> Any:
    with staged(replies) as path:
        return asyncio.run(Docker(path).inspect(ID))


def test_a_container_and_its_image_are_asked_for_by_their_ids() -> None:
    asked = []

    def replies(path: str) -> tuple[int, bytes]:
        asked.append(path)
        if path.startswith("/images"):
            row = {"Id": IMAGE, "RepoDigests": ["shop@sha256:" + "ef" * 32, "shop@latest"]}
            return 200, json.dumps(row).encode()
        return 200, json.dumps(told()).encode()

    found = inspect(replies)
    assert asked == [f"/containers/{ID}/json", f"/images/{IMAGE}/json"]
    assert (found.init, found.image, found.labels) == (7, "shop:1", (("app", "shop"),))
    assert found.digests == (IMAGE, "sha256:" + "ef" * 32)


def test_an_image_that_was_removed_leaves_its_own_digest() -> None:
    found = inspect(lambda path: (404, b"{}") if path.startswith("/images") else (200, json.dumps(told()).encode()))
    assert found.digests == (IMAGE,)


def test_what_it_does_not_know_is_no_container() -> None:
    assert inspect(lambda _: (404, b"{}")) is None


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param((200, json.dumps(told(Id="ef" * 32)).encode()), "LM3473", id="another-id"),
        pytest.param((200, json.dumps(told()).encode()[:-1] + b', "Id": "x"}'), "LM3473", id="a-key-twice"),
        pytest.param((200, b"[" * 50_000), "LM3473", id="deep"),
        pytest.param((200, b"x" * (MAX_BYTES + 1)), "LM3473", id="too-long"),
        pytest.param((200, b"\xff"), "LM3473", id="no-text"),
        pytest.param((200, json.dumps(told(State={"Status": "running", "Pid": -1})).encode()), "LM3473", id="no-pid"),
        pytest.param((500, b"{}"), "LM3472", id="an-error"),
        pytest.param((302, b"{}"), "LM3472", id="elsewhere"),
        pytest.param(None, "LM3472", id="silence"),
    ],
)
def test_an_answer_that_is_none_is_unavailable(reply: tuple[int, bytes] | None, code: str) -> None:
    with pytest.raises(Unavailable) as caught:
        inspect(lambda _: reply)
    assert caught.value.code == code


def test_nobody_at_the_socket_is_unavailable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(Docker(str(tmp_path / "none")).inspect(ID))
    assert caught.value.code == "LM3472"


# -- real engines

NEEDS = {
    "docker": engines.missing("dockerd", "docker", "containerd", "runc"),
    "podman": engines.missing("podman", "runc", "conmon"),
    "podman-unified": engines.missing("podman", "runc", "conmon", "unshare", "nsenter"),
}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Everybody takes their time on a slow machine, but for the one that says nothing at all."""
    if "silence" not in request.node.name:
        for name in ("docker", "containers"):
            monkeypatch.setattr(f"enforcer.runtime.{name}.WITHIN_S", 60.0)


@pytest.fixture(scope="module", params=list(NEEDS))
def engine(request: pytest.FixtureRequest) -> Iterator[engines.Engine]:
    if NEEDS[request.param]:
        pytest.skip(NEEDS[request.param])
    with engines.folder() as folder, contextlib.ExitStack() as stack:
        if request.param == "docker":
            yield stack.enter_context(engines.docker(folder))
        elif request.param == "podman":
            yield stack.enter_context(engines.podman(folder))
        else:
            inside = stack.enter_context(engines.only_unified())
            yield stack.enter_context(engines.podman(folder, inside))


def needs_engines(test: Any) -> Any:
    """A test with real engines."""
    for mark in (pytest.mark.peer, pytest.mark.root, pytest.mark.slow):
        test = mark(test)
    return test


def facts(engine: engines.Engine, pid: int, containers: Containers | None = None) -> Found:
    return asyncio.run((containers or Containers([Docker(engine.path)])).facts_of(read_process(pid)))


def refused(engine: engines.Engine, pid: int, containers: Containers | None = None) -> str:
    found = facts(engine, pid, containers)
    assert found.facts == ()
    assert found.problem is not None
    return f"{found.problem.code} {found.problem.facts['reason']}"


@contextlib.contextmanager
def beside(engine: engines.Engine, container: str) -> Iterator[int]:
    """Something that the engine executes in a container, beside its first process."""
    known = set(engines.pids_of(container))
    with engine.exec(container, "/busybox", "cat") as process:
        pid = 0
        while not pid:
            assert process.poll() is None
            for other in set(engines.pids_of(container)) - known:
                with contextlib.suppress(OSError):
                    is_it = pathlib.Path(f"/proc/{other}/cmdline").read_bytes() == b"/busybox\0cat\0"
                    pid = other if is_it else pid
            os.sched_yield()
        try:
            yield pid
        finally:
            assert process.stdin is not None
            process.stdin.close()


@contextlib.contextmanager
def stranger(*before: str) -> Iterator[int]:
    """A process of the host."""
    with subprocess.Popen([*before, "sleep", "600"]) as process:
        try:
            command = pathlib.Path(f"/proc/{process.pid}/cmdline")
            while b"nsenter" in (said := command.read_bytes()) or not said.endswith(b"sleep\x00600\x00"):
                assert process.poll() is None
                os.sched_yield()
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def pair(engine: engines.Engine) -> Iterator[tuple[str, int, str, int]]:
    """Two containers: of each the id and the first process."""
    yield (*engine.run("--label", "team=checkout"), *engine.run("--label", "team=ledger"))
    engine.remove_all()


@needs_engines
def test_what_runs_in_a_container_has_the_facts_of_its_image(engine: engines.Engine, pair: Any) -> None:
    container, pid, *_ = pair
    found = facts(engine, pid)
    assert found.problem is None
    assert ("docker:id", container) in found.facts
    assert ("docker:image", engines.IMAGE) in found.facts
    assert ("docker:label:app", "shop") in found.facts
    assert ("docker:label:team", "checkout") in found.facts
    image = engines.run(*engine.command, "inspect", container, "--format", "{{.Image}}")
    assert ("docker:image-digest", f"sha256:{image.removeprefix('sha256:')}") in found.facts
    assert {source for _, source in found.sources} == {f"docker at {engine.path}"}


@needs_engines
def test_what_the_engine_executes_in_it_later_belongs_to_it_and_asks_nobody_again(
    engine: engines.Engine, pair: Any
) -> None:
    container, pid, *_ = pair
    containers = Containers([Docker(engine.path)])

    async def both(other: int) -> list[Found]:
        return [await containers.facts_of(read_process(number)) for number in (pid, other)]

    with beside(engine, container) as other:
        first, second = asyncio.run(both(other))
        assert first.facts == second.facts != ()
        # nobody is at the socket any more: what is known serves while the first process lives
        containers.runtimes = ()
        assert asyncio.run(containers.facts_of(read_process(other))).facts == first.facts


@needs_engines
def test_a_group_below_a_container_that_is_called_like_another_one_changes_nothing(
    engine: engines.Engine, pair: Any
) -> None:
    container, _, other, _ = pair
    with beside(engine, container) as pid:
        # only where the container is: what its root could make, with a hierarchy delegated to it
        groups = [(top, f"{path}/docker/{other}") for top, path in engines.groups_of(pid) if container in path]
        with engines.moved(pid, groups):
            found = facts(engine, pid)
            assert ("docker:id", container) in found.facts
            assert ("docker:label:team", "ledger") not in found.facts


@needs_engines
@pytest.mark.parametrize("name", ["limen-test/docker-{}.scope", "limen-test.service/docker/{}"])
def test_a_group_elsewhere_that_is_called_like_a_container_is_none(
    engine: engines.Engine, pair: Any, name: str
) -> None:
    container, *_ = pair
    with stranger() as pid:
        groups = [(top, name.format(container)) for top, _ in engines.groups_of(pid)]
        with engines.moved(pid, groups):
            assert facts(engine, pid) == Found()


@needs_engines
@pytest.mark.parametrize("namespaces", [(), ("-m",), ("-p",)], ids=["of-the-host", "in-its-mounts", "in-its-processes"])
def test_a_process_of_the_host_in_the_groups_of_a_container_is_not_inside(
    engine: engines.Engine, pair: Any, namespaces: tuple[str, ...]
) -> None:
    _, init, *_ = pair
    # in the container's mounts there is nothing of the host but the program itself
    program = "/busybox" if namespaces == ("-m",) else "busybox"
    before = ["nsenter", "-t", str(init), *namespaces, "-F", "--"] if namespaces else []
    with stranger(*before, program) as pid, engines.moved(pid, engines.groups_of(init)):
        assert refused(engine, pid).startswith("LM3471 it is in another")


@needs_engines
def test_an_id_that_was_stopped_or_began_again_gives_nothing_to_what_ran_before(engine: engines.Engine) -> None:
    container, pid = engine.run()
    containers = Containers([Docker(engine.path)])
    before = read_process(pid)
    assert asyncio.run(containers.facts_of(before)).facts != ()
    engine.stop(container)
    stopped = asyncio.run(containers.facts_of(before))
    assert stopped.facts == ()
    assert stopped.problem is not None
    # the same id again, with another first process
    engines.run(*engine.command, "start", container)
    again = Containers([Docker(engine.path)])
    assert ("docker:id", container) in asyncio.run(again.facts_of(read_process(engine.pid(container)))).facts
    gone = asyncio.run(again.facts_of(before))
    assert gone.facts == ()
    with pytest.raises(NotFound):
        gone.settle()


@needs_engines
def test_an_id_of_one_engine_is_no_container_of_another(engine: engines.Engine, pair: Any) -> None:
    _, pid, *_ = pair
    with staged(lambda _: (404, b"{}")) as path:
        assert refused(engine, pid, Containers([Docker(path)])).startswith("LM3471 it knows no such container")
    assert refused(engine, pid, Containers([Docker(engine.path), Docker(engine.path)])) == "LM3471 two runtimes know it"


@needs_engines
def test_an_engine_that_names_another_first_process_is_not_believed(engine: engines.Engine, pair: Any) -> None:
    container, pid, _, other = pair
    row = told(Id=container, State={"Status": "running", "Pid": other})
    with staged(lambda path: (404, b"{}") if "images" in path else (200, json.dumps(row).encode())) as path:
        assert refused(engine, pid, Containers([Docker(path)])).startswith(f"LM3471 process {other}, which")
