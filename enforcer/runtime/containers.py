"""The facts of a process that come from its container: asked of the runtime once, believed if the kernel agrees.

Nothing is polled. What a runtime said of a container serves while the container's first process lives; whether a
process is in the container is looked at each time. A runtime that fails gives no facts, and holds nobody up for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from enforcer.process import Process
from enforcer.runtime.container import Container, Facts, PodSource, Runtime
from enforcer.runtime.inside import Inside, misfit, read_inside
from enforcer.runtime.sockets import is_there
from mesh.problems import NotFound, Problem, Unavailable

# how long a process that asks may wait for all of it
WITHIN_S = 6.0
AT_ONCE = 8
KEPT = 2048
# a container that its runtime does not know (yet) makes us ask again, but not more often than this
AGAIN_S = 0.5
# an engine hears later than the program itself that it began
_STARTING_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The facts that were found, of whom each is, and why there are no more."""

    facts: Facts = ()
    sources: tuple[tuple[str, str], ...] = ()
    problem: Problem | None = None

    def settle(self) -> Facts:
        """The facts; a question that may be answered later is no answer.

        Raises Unavailable, since with fewer facts than the process has a rule for another one might fit, and NotFound
        LM3401 for a process that is gone.
        """
        if self.problem is not None and (isinstance(self.problem, Unavailable) or self.problem.code == "LM3401"):
            raise self.problem
        return self.facts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What was said of a container, while its first process is this one."""

    told: Container
    init: Inside
    sources: tuple[tuple[str, str], ...]


class Containers:
    """The containers of this host, as far as somebody asked.

    ``optional`` are sockets that need not be there, until they were once. ``moment`` is a monotonic clock.
    """

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        pods: PodSource | None = None,
        *,
        optional: Iterable[str] = (),
        moment: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runtimes, self.pods = tuple(runtimes), pods
        self._moment, self._optional = moment, set(optional)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asking: dict[str, tuple[asyncio.Lock, int]] = {}
        self._refused: OrderedDict[str, tuple[float, Problem]] = OrderedDict()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._log = structlog.get_logger()

    async def facts_of(self, process: Process) -> Found:
        """What the container of a process gives.

        1. The kernel's path names a container at a place where only its runtime can make a group.
        2. What its runtime said holds while its first process is the same; otherwise the runtime is asked, one
           question at a time for each container, and so are Kubernetes and the image.
        3. The kernel says that the process is inside (`enforcer.runtime.inside.misfit`).
        4. A pod in the path is the pod that the runtime names.

        A problem is returned, not raised: it says why there are no facts.
        """
        # (1)
        container = process.cgroup.container
        if process.cgroup.is_torn:
            return _none("the host", process, "two", "its control groups name two containers")
        if not container:
            return Found()
        try:
            async with asyncio.timeout(WITHIN_S):
                # (2)
                kept = await self._of(process, container)
            # (3)
            reason = await asyncio.to_thread(misfit, process, container, kept.init)
        except TimeoutError:
            waited = f"not within {WITHIN_S:g} s"
            return Found(problem=Unavailable("LM3472", runtime="the runtime of this container", reason=waited))
        except Problem as problem:
            return Found(problem=problem)
        # (4)
        pod = kept.told.pod.uid if kept.told.pod is not None else ""
        if not reason and process.cgroup.pod not in {"", pod}:
            reason = f"its control group is of pod {process.cgroup.pod}, and the runtime names {pod or 'none'}"
        if reason:
            return _none(kept.sources[0][1], process, container, reason)
        return Found(facts=kept.told.facts(), sources=kept.sources)

    async def _of(self, process: Process, container: str) -> _Kept:
        async with self._turn(container):
            kept = self._kept.get(container)
            if kept is not None and _lives(kept.init):
                self._kept.move_to_end(container)
                return kept
            self._kept.pop(container, None)
            then, problem = self._refused.get(container, (float("-inf"), None))
            if problem is not None and self._moment() - then < AGAIN_S:
                raise problem.with_traceback(None)
            try:
                kept = await self._ask(process, container)
            except Problem as found:
                self._refuse(container, found)
                raise
            self._kept[container] = kept
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return kept

    @contextlib.asynccontextmanager
    async def _turn(self, container: str) -> AsyncIterator[None]:
        """Wait for our turn to ask about a container; nothing is left of it when nobody waits any more."""
        lock, waiting = self._asking.get(container, (asyncio.Lock(), 0))
        self._asking[container] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            _, waiting = self._asking[container]
            if waiting > 1:
                self._asking[container] = lock, waiting - 1
            else:
                del self._asking[container]

    def _refuse(self, container: str, problem: Problem) -> None:
        self._log.warning("no facts of a container", container=container, code=problem.code, reason=str(problem))
        self._refused[container] = (self._moment(), problem)
        self._refused.move_to_end(container)
        while len(self._refused) > KEPT:
            self._refused.popitem(last=False)

    async def _ask(self, process: Process, container: str) -> _Kept:
        """Ask the runtimes of a container's kind, and Kubernetes of its pod.

        Raises NotFound LM3470 when there is nobody to ask, LM3471 when nobody knows it; Unavailable.
        """
        kind = "cri" if process.cgroup.pod else "docker"
        # a runtime that was there and is gone is silent, not unknown
        self._optional -= {found.path for found in self.runtimes if is_there(found.path)}
        asked = [found for found in self.runtimes if found.kind == kind and found.path not in self._optional]
        if not asked:
            raise NotFound("LM3470", pid=process.pid, container=container, kind=kind)
        async with self._slots:
            known = [(runtime, told) for runtime in asked if (told := await _inspect(runtime, container)) is not None]
            if len(known) != 1:
                reason = "two runtimes know it" if known else "it knows no such container that runs"
                names = ", ".join(runtime.source for runtime in asked)
                raise NotFound("LM3471", runtime=names, pid=process.pid, container=container, reason=reason)
            runtime, told = known[0]
            sources = [("docker:", runtime.source), ("k8s:", runtime.source)]
            if told.pod is not None and self.pods is not None:
                had = bool(told.pod.labels)
                told = dataclasses.replace(told, pod=await self.pods.complete(told.pod))
                sources += [("k8s:sa", self.pods.source)]
                sources += [] if had else [("k8s:pod-label:", self.pods.source)]
        try:
            init = await asyncio.to_thread(read_inside, told.init)
        except NotFound as problem:
            reason = f"process {told.init}, which it names, is gone or cannot be looked at"
            raise NotFound(
                "LM3471", runtime=runtime.source, pid=process.pid, container=container, reason=reason
            ) from problem
        return _Kept(told=told, init=init, sources=tuple(sources))


async def _inspect(runtime: Runtime, container: str) -> Container | None:
    """Ask a runtime; one that is just starting the container is asked again, for a second and a half in all."""
    for pause in (*_STARTING_S, None):
        told = await runtime.inspect(container)
        if told is None or told.state == "ended":
            return None
        if told.state == "running":
            return told
        if pause is not None:
            await asyncio.sleep(pause)
    raise Unavailable("LM3472", runtime=runtime.source, reason="the container is starting and has no process yet")


def _lives(init: Inside) -> bool:
    """Whether a container's first process is what it was."""
    try:
        return read_inside(init.pid) == init
    except NotFound:
        return False


def _none(runtime: str, process: Process, container: str, reason: str) -> Found:
    return Found(problem=NotFound("LM3471", runtime=runtime, pid=process.pid, container=container, reason=reason))


def source_of(name: str, sources: Sequence[tuple[str, str]]) -> str:
    """Of whom a fact is: the longest beginning that fits; empty for the kernel's own."""
    fitting = [(len(prefix), source) for prefix, source in sources if name.startswith(prefix)]
    return max(fitting)[1] if fitting else ""
