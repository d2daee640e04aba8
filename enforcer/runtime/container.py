"""A container as its runtime tells of it, and the facts that identity rules may match. Nothing here asks anybody."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, Protocol

# what a label's name and value may be at most, in characters; Kubernetes allows 317 and 63
MAX_NAME, MAX_VALUE, MAX_LABELS = 320, 1024, 256

State = Literal["starting", "running", "ended"]
Facts = tuple[tuple[str, str], ...]
Labels = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of Kubernetes. ``service_account`` is empty while nobody told it."""

    uid: str
    name: str
    namespace: str
    labels: Labels = ()
    service_account: str = ""

    def facts(self) -> Facts:
        """As facts; what is empty is none."""
        found = [
            ("k8s:ns", self.namespace),
            ("k8s:sa", self.service_account),
            ("k8s:pod-name", self.name),
            ("k8s:pod-uid", self.uid),
        ]
        return (*((name, value) for name, value in found if value), *_labels("k8s:pod-label:", self.labels))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container. ``init`` is its first process, a pid of the host; 0 for one that does not run.

    ``digests`` are of content: the image's own and those of its manifests. ``image`` is the name by which it was asked
    for, which may mean other content tomorrow.
    """

    id: str
    state: State
    init: int
    image: str = ""
    digests: tuple[str, ...] = ()
    labels: Labels = ()
    name: str = ""
    pod: Pod | None = None

    def facts(self) -> Facts:
        """As facts; what is empty is none."""
        found = [("docker:id", self.id), ("docker:image", self.image)]
        found += [("docker:image-digest", digest) for digest in sorted(set(self.digests))]
        found += [("k8s:container-name", self.name if self.pod is not None else "")]
        pod = self.pod.facts() if self.pod is not None else ()
        return (*((name, value) for name, value in found if value), *_labels("docker:label:", self.labels), *pod)


class Runtime(Protocol):
    """A container runtime that can be asked. ``source`` says of whom facts are, ``path`` is its socket."""

    kind: Literal["docker", "cri"]
    path: str

    @property
    def source(self) -> str:
        """Who it is, for people."""

    async def inspect(self, container: str) -> Container | None:
        """What it knows of a container; None when it has none of that id.

        Raises Unavailable LM3472 when it does not answer, LM3473 when the answer cannot be read, LM3474 for a socket
        that is not to be believed.
        """


class PodSource(Protocol):
    """Somebody who knows the pods of this host."""

    source: str

    async def complete(self, pod: Pod) -> Pod:
        """A pod with its service account, and with labels if it had none.

        Raises Unavailable LM3476 when that cannot be told.
        """


def _labels(family: str, labels: Labels) -> Iterator[tuple[str, str]]:
    """Labels as facts, each name once; with more than is believable, none."""
    if len(labels) > MAX_LABELS:
        return
    for name, value in labels:
        if 0 < len(name) <= MAX_NAME and len(value) <= MAX_VALUE and name.isprintable() and value.isprintable():
            yield f"{family}{name}", value
