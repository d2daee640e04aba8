"""Asks Kubernetes of a pod, which a runtime does not know whole: its service account, and labels that are missing.

An API server is asked for the one pod. A kubelet answers only with all pods of the host, so it is asked when a pod is
seen for the first time and never again for those in its answer: a list of a hundred pods is a megabyte of JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

from enforcer.runtime import answers
from enforcer.runtime.container import Pod
from enforcer.runtime.fetch import get
from mesh.problems import Unavailable

WITHIN_S = 3.0
MAX_POD_BYTES, MAX_LIST_BYTES = 2 << 20, 32 << 20
MAX_TOKEN_BYTES = 16_384
KEPT = 2048
# a pod that a kubelet did not know makes us ask again, but not more often than this
AGAIN_S = 1.0
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Who is asked, and how each side proves itself.

    ``ca`` names the file of its certificate authority; either ``token``, or ``cert`` with ``key``, are files of ours.
    ``name`` is what its certificate says when the URL does not.
    """

    kind: Literal["kubelet", "api"]
    url: str
    ca: str
    token: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""


class Pods:
    """The pods that were asked for. ``moment`` is a monotonic clock."""

    def __init__(self, cluster: Cluster, moment: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._moment = cluster, moment
        self._known: OrderedDict[str, Pod] = OrderedDict()
        self._lock = asyncio.Lock()
        self._listed = float("-inf")
        self.source = f"{cluster.kind} at {cluster.url}"

    async def complete(self, pod: Pod) -> Pod:
        """A pod with its service account, and with labels if the runtime told none (`PodSource`).

        1. What was told once is remembered: neither changes while a pod of this uid exists.
        2. Otherwise Kubernetes is asked, one question at a time.
        3. It has to tell of this uid, by the name and namespace that the runtime knows it by.
        """
        # (2) before (1): who waited for the same answer takes it from the memory
        async with self._lock:
            if pod.uid not in self._known:
                await self._learn(pod)
            # (1)
            told = self._known.get(pod.uid)
        # (3)
        if told is None or (told.name, told.namespace) != (pod.name, pod.namespace):
            raise self._silent(pod, "it does not know this pod")
        if not told.service_account:
            raise self._silent(pod, "it tells no service account")
        return dataclasses.replace(pod, service_account=told.service_account, labels=pod.labels or told.labels)

    async def _learn(self, pod: Pod) -> None:
        try:
            if self._cluster.kind == "api":
                found = await self._one(pod)
            else:
                found = await self._all(pod)
        except OSError as err:
            raise self._silent(pod, err.strerror or str(err)) from err
        except ValueError as err:
            raise self._silent(pod, f"its answer cannot be read: {err}") from err
        for uid, told in found.items():
            self._known[uid] = told
            self._known.move_to_end(uid)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    async def _one(self, pod: Pod) -> Mapping[str, Pod]:
        if not _NAME.match(pod.namespace) or not _NAME.match(pod.name):
            raise ValueError("the runtime's name of the pod is none")
        data = await self._get(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}", MAX_POD_BYTES)
        found = await asyncio.to_thread(answers.read_pod, data)
        return {found.uid: found}

    async def _all(self, pod: Pod) -> Mapping[str, Pod]:
        if self._moment() - self._listed < AGAIN_S:
            raise self._silent(pod, "it was asked just now and did not know this pod")
        self._listed = self._moment()
        data = await self._get("/pods", MAX_LIST_BYTES)
        # read on a thread: a long list takes a while, and others are waiting
        return await asyncio.to_thread(answers.read_pods, data)

    async def _get(self, path: str, limit: int) -> bytes:
        tls, headers = await asyncio.to_thread(self._credentials)
        status, data = await get(
            f"{self._cluster.url}{path}",
            limit=limit,
            within_s=WITHIN_S,
            tls=tls,
            headers=headers,
            server_name=self._cluster.name,
        )
        if status != 200:
            raise OSError(None, f"it answers with status {status}")
        return data

    def _credentials(self) -> tuple[ssl.SSLContext, dict[str, str]]:
        """Read anew each time: tokens and certificates are replaced while we run."""
        context = ssl.create_default_context(cafile=self._cluster.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._cluster.cert:
            context.load_cert_chain(self._cluster.cert, self._cluster.key)
        if not self._cluster.token:
            return context, {}
        with pathlib.Path(self._cluster.token).open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).decode("ascii").strip()
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
            raise ValueError("our token file holds no token")
        return context, {"authorization": f"Bearer {token}"}

    def _silent(self, pod: Pod, reason: str) -> Unavailable:
        return Unavailable("LM3476", source=self.source, pod=f"{pod.namespace}/{pod.name}", reason=reason)
