"""Asks a runtime of Kubernetes of a container: the Container Runtime Interface, v1, at its Unix socket.

Four questions that change nothing: which pod sandbox the container is in, its state and first process (the verbose
part of a status: containerd and CRI-O tell it there, each in JSON of its own), its pod, and the digests of its image.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any, Literal

import grpc

from enforcer.runtime import answers
from enforcer.runtime.container import Container, Pod, State
from enforcer.runtime.sockets import check_socket
from mesh.problems import Unavailable
from mesh.proto import cri_pb2 as pb
from mesh.proto import cri_pb2_grpc

WITHIN_S = 2.0
# the verbose part repeats the container's whole configuration
MAX_BYTES = 4 << 20
_STATES: dict[int, State] = {pb.CONTAINER_CREATED: "starting", pb.CONTAINER_RUNNING: "running"}
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BYTES),
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # a connection of its own each time: the socket was checked just now
    ("grpc.use_local_subchannel_pool", 1),
)


class Cri:
    """One runtime at its socket."""

    kind: Literal["docker", "cri"] = "cri"

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def source(self) -> str:
        """Who it is, for people."""
        return f"cri at {self.path}"

    async def inspect(self, container: str) -> Container | None:
        """What it knows of a container (`enforcer.runtime.container.Runtime`).

        1. The container of exactly this id, and the sandbox that it is in.
        2. Its status, which names the first process of one that runs.
        3. The sandbox's own status: its pod. The labels of the container itself are not asked.
        4. The digests of its image.
        """
        path = await asyncio.to_thread(check_socket, self.path)
        async with grpc.aio.insecure_channel(f"unix:{urllib.parse.quote(path)}", options=_OPTIONS) as channel:
            runtime: Any = cri_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]
            images: Any = cri_pb2_grpc.ImageServiceStub(channel)  # type: ignore[no-untyped-call]
            # (1)
            request = pb.ListContainersRequest(filter=pb.ContainerFilter(id=container))
            listed: pb.ListContainersResponse | None = await self._ask(runtime.ListContainers, request)
            found = [item for item in (listed.containers if listed is not None else ()) if item.id == container]
            if not found:
                return None
            if len(found) > 1 or not found[0].pod_sandbox_id:
                raise self._unreadable("it tells of several containers, or of none in a sandbox")
            # (2)
            asked = pb.ContainerStatusRequest(container_id=container, verbose=True)
            answer: pb.ContainerStatusResponse | None = await self._ask(runtime.ContainerStatus, asked)
            if answer is None:
                return None
            status = answer.status
            if status.id != container:
                raise self._unreadable("it tells of another container")
            state = _STATES.get(status.state, "ended")
            if state != "running":
                return Container(id=container, state=state, init=0)
            init = self._init(answer)
            # (3)
            pod = await self._pod(runtime, found[0].pod_sandbox_id)
            if pod is None:
                return None
            # (4)
            known = await self._digests(images, status)
        return Container(
            id=container,
            state="running" if init else "starting",
            init=init,
            image=status.image.user_specified_image or status.image.image,
            digests=answers.digests([status.image_id, status.image_ref, *known]),
            name=status.metadata.name,
            pod=pod,
        )

    def _init(self, answer: pb.ContainerStatusResponse) -> int:
        try:
            return answers.read_cri_pid(answer.info.get("info", ""))
        except ValueError as err:
            raise self._unreadable(f"in its verbose status: {err}") from err

    async def _pod(self, runtime: Any, sandbox: str) -> Pod | None:  # noqa: ANN401  grpc has no types
        answer: pb.PodSandboxStatusResponse | None = await self._ask(
            runtime.PodSandboxStatus, pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox)
        )
        if answer is None or answer.status.state != pb.SANDBOX_READY:
            return None
        metadata = answer.status.metadata
        if answer.status.id != sandbox or not (metadata.uid and metadata.name and metadata.namespace):
            raise self._unreadable("it tells of another sandbox, or of one without a pod")
        labels = tuple(sorted(answer.status.labels.items()))
        return Pod(uid=metadata.uid, name=metadata.name, namespace=metadata.namespace, labels=labels)

    async def _digests(self, images: Any, status: pb.ContainerStatus) -> list[str]:  # noqa: ANN401  grpc has no types
        name = status.image_ref or status.image_id
        if not name:
            return []
        answer: pb.ImageStatusResponse | None = await self._ask(
            images.ImageStatus, pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        )
        return [answer.image.id, *answer.image.repo_digests] if answer is not None else []

    async def _ask(self, method: Any, request: Any) -> Any:  # noqa: ANN401  grpc has no types
        """One question; None when it knows no such thing."""
        try:
            return await method(request, timeout=WITHIN_S)
        except grpc.aio.AioRpcError as err:
            if err.code() == grpc.StatusCode.NOT_FOUND:
                return None
            details = "".join(part for part in (err.details() or "")[:200] if part.isprintable())
            # what cannot be parsed as an answer, or is too long, is the channel's own word
            unreadable = {grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED}
            code = "LM3473" if err.code() in unreadable else "LM3472"
            raise Unavailable(code, runtime=self.source, reason=f"{err.code().name}: {details}") from err

    def _unreadable(self, reason: str) -> Unavailable:
        return Unavailable("LM3473", runtime=self.source, reason=reason)
