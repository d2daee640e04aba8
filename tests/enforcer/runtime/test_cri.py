"""CRI v1: of containerd for real, and of a server that answers oddly. CRI-O was not tried."""

import asyncio
import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from enforcer.process import read_process
from enforcer.runtime.containers import Containers
from enforcer.runtime.cri import MAX_BYTES, Cri
from mesh.problems import Unavailable
from mesh.proto import cri_pb2 as pb
from mesh.proto import cri_pb2_grpc
from tests.enforcer.runtime import engines

ID, SANDBOX = "ab" * 32, "cd" * 32
IMAGE, MANIFEST = "sha256:" + "12" * 32, "sha256:" + "34" * 32
UID = "0f6b3a1c-9f3e-4c55-8a53-111122223333"


class Said(cri_pb2_grpc.RuntimeServiceServicer, cri_pb2_grpc.ImageServiceServicer):
    """A runtime that says what the test says; at first all is well."""

    def __init__(self) -> None:
        self.containers = [pb.Container(id=ID, pod_sandbox_id=SANDBOX)]
        self.status = pb.ContainerStatus(
            id=ID,
            metadata=pb.ContainerMetadata(name="web"),
            state=pb.CONTAINER_RUNNING,
            image=pb.ImageSpec(image=IMAGE, user_specified_image="shop:1"),
            image_ref=f"shop@{MANIFEST}",
        )
        self.info = {"info": json.dumps({"pid": 7, "runtimeSpec": {}})}
        self.sandbox = pb.PodSandboxStatus(
            id=SANDBOX,
            metadata=pb.PodSandboxMetadata(name="web-0", uid=UID, namespace="shop"),
            labels={"app": "web"},
        )
        self.image: pb.Image | None = pb.Image(id=IMAGE, repo_digests=[f"shop@{MANIFEST}"])
        self.code: grpc.StatusCode | None = None
        self.asked: list[str] = []

    def _say(self, name: str, context: Any) -> None:
        self.asked.append(name)
        if self.code is not None:
            context.abort(self.code, "no\nway")

    def ListContainers(self, request: Any, context: Any) -> Any:
        self._say(f"list {request.filter.id}", context)
        return pb.ListContainersResponse(containers=self.containers)

    def ContainerStatus(self, request: Any, context: Any) -> Any:
        self._say(f"status {request.container_id}", context)
        return pb.ContainerStatusResponse(status=self.status, info=self.info)

    def PodSandboxStatus(self, request: Any, context: Any) -> Any:
        self._say(f"sandbox {request.pod_sandbox_id}", context)
        return pb.PodSandboxStatusResponse(status=self.sandbox)

    def ImageStatus(self, request: Any, context: Any) -> Any:
        self._say(f"image {request.image.image}", context)
        return pb.ImageStatusResponse(image=self.image)


@contextlib.contextmanager
def said(runtime: Said) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/run" if os.geteuid() == 0 else None) as folder:
        path = f"{folder}/s"
        server = grpc.server(futures.ThreadPoolExecutor(2))
        cri_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime, server)  # type: ignore[no-untyped-call]
        cri_pb2_grpc.add_ImageServiceServicer_to_server(runtime, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"unix:{path}")
        server.start()
        os.chmod(path, 0o600)
        try:
            yield path
        finally:
            server.stop(None).wait()


def inspect(runtime: Said) -> Any:
    with said(runtime) as path:
        return asyncio.run(Cri(path).inspect(ID))


def test_four_questions_make_a_container() -> None:
    runtime = Said()
    found = inspect(runtime)
    assert runtime.asked == [f"list {ID}", f"status {ID}", f"sandbox {SANDBOX}", f"image shop@{MANIFEST}"]
    assert (found.state, found.init, found.image, found.name) == ("running", 7, "shop:1", "web")
    assert set(found.digests) == {IMAGE, MANIFEST}
    assert (found.pod.uid, found.pod.namespace, found.pod.name) == (UID, "shop", "web-0")
    assert found.pod.labels == (("app", "web"),)


def change(**changes: Any) -> Said:
    found = Said()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def status(**changes: Any) -> Said:
    found = Said()
    for name, value in changes.items():
        setattr(found.status, name, value)
    return found


def sandbox(**changes: Any) -> Said:
    found = Said()
    for name, value in changes.items():
        setattr(found.sandbox, name, value)
    return found


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(change(containers=[]), id="none"),
        pytest.param(change(containers=[pb.Container(id="ef" * 32, pod_sandbox_id=SANDBOX)]), id="another"),
        pytest.param(change(code=grpc.StatusCode.NOT_FOUND), id="not-found"),
        pytest.param(sandbox(state=pb.SANDBOX_NOTREADY), id="a-sandbox-that-ended"),
    ],
)
def test_what_it_does_not_know_is_no_container(runtime: Said) -> None:
    assert inspect(runtime) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [(pb.CONTAINER_CREATED, "starting"), (pb.CONTAINER_EXITED, "ended"), (pb.CONTAINER_UNKNOWN, "ended")],
    ids=["created", "exited", "unknown"],
)
def test_only_what_runs_has_a_first_process(state: Any, expected: str) -> None:
    found = inspect(status(state=state))
    assert (found.state, found.init) == (expected, 0)


def test_an_image_that_was_removed_leaves_the_digest_that_it_ran_by() -> None:
    assert inspect(change(image=None)).digests == (MANIFEST,)


@pytest.mark.parametrize(
    ("runtime", "code"),
    [
        pytest.param(status(id="ef" * 32), "LM3473", id="another-container"),
        pytest.param(sandbox(id="ef" * 32), "LM3473", id="another-sandbox"),
        pytest.param(change(sandbox=pb.PodSandboxStatus(id=SANDBOX)), "LM3473", id="no-pod"),
        pytest.param(change(containers=[pb.Container(id=ID, pod_sandbox_id=SANDBOX)] * 2), "LM3473", id="twice"),
        pytest.param(change(containers=[pb.Container(id=ID)]), "LM3473", id="no-sandbox"),
        pytest.param(change(info={}), "LM3473", id="no-verbose-part"),
        pytest.param(change(info={"info": '{"pid": 7, "pid": 8}'}), "LM3473", id="a-key-twice"),
        pytest.param(change(info={"info": "x" * (MAX_BYTES + 1)}), "LM3473", id="too-long"),
        pytest.param(change(code=grpc.StatusCode.UNIMPLEMENTED), "LM3472", id="no-cri"),
        pytest.param(change(code=grpc.StatusCode.UNAVAILABLE), "LM3472", id="away"),
        pytest.param(change(code=grpc.StatusCode.DEADLINE_EXCEEDED), "LM3472", id="late"),
    ],
)
def test_an_answer_that_is_none_is_unavailable(runtime: Said, code: str) -> None:
    with pytest.raises(Unavailable) as caught:
        inspect(runtime)
    assert caught.value.code == code
    assert str(caught.value).isprintable()


def test_nobody_at_the_socket_is_unavailable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(Cri(str(tmp_path / "none")).inspect(ID))
    assert caught.value.code == "LM3472"


# -- containerd

NEEDS = engines.missing("containerd", "ctr", "runc")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody takes their time on a slow machine."""
    for name in ("cri", "containers"):
        monkeypatch.setattr(f"enforcer.runtime.{name}.WITHIN_S", 60.0)


@pytest.fixture(scope="module")
def kubelet() -> Iterator[engines.Kubelet]:
    if NEEDS:
        pytest.skip(NEEDS)
    with engines.folder() as folder, engines.kubelet(folder) as found:
        yield found


@pytest.mark.peer
@pytest.mark.root
@pytest.mark.slow
def test_what_runs_in_a_pod_of_containerd_has_the_pods_facts(kubelet: engines.Kubelet) -> None:
    sandbox, container = kubelet.run(UID, app="web", tier="front")
    (pid,) = engines.pids_of(container)
    found = asyncio.run(Containers([Cri(kubelet.path)]).facts_of(read_process(engines.settled(pid))))
    assert found.problem is None
    expected = {
        ("docker:id", container), ("docker:image", engines.IMAGE), ("docker:image-digest", kubelet.image),
        ("k8s:ns", "shop"), ("k8s:pod-name", "web-0"), ("k8s:pod-uid", UID), ("k8s:container-name", "web"),
        ("k8s:pod-label:app", "web"), ("k8s:pod-label:tier", "front"),
    }  # fmt: skip
    assert expected <= set(found.facts)
    assert "k8s:sa" not in dict(found.facts)
    # the pod's own pause process is no container of it
    (pause,) = engines.pids_of(sandbox)
    other = asyncio.run(Containers([Cri(kubelet.path)]).facts_of(read_process(engines.settled(pause))))
    assert (other.facts, other.problem and other.problem.code) == ((), "LM3471")


@pytest.mark.peer
@pytest.mark.root
@pytest.mark.slow
def test_a_container_of_a_pod_that_was_stopped_gives_nothing(kubelet: engines.Kubelet) -> None:
    _, container = kubelet.run(UID.replace("0f6b", "1f6b"))
    (pid,) = engines.pids_of(container)
    process = read_process(engines.settled(pid))
    containers = Containers([Cri(kubelet.path)])
    assert asyncio.run(containers.facts_of(process)).facts != ()
    kubelet.call("StopContainer", container_id=container)
    found = asyncio.run(containers.facts_of(process))
    assert (found.facts, found.problem and found.problem.code) == ((), "LM3471")
