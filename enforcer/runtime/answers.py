"""Reads what runtimes and kubelets answer: strict JSON, and of it only the few fields that are used.

A key that stands twice, a value of another type or an id that was not asked for makes the whole answer unreadable.
What else an answer holds (environments with their secrets, say) is dropped with it. This module asks nobody.
"""

from __future__ import annotations

import json
import re
from typing import Any

from enforcer.runtime.container import Container, Labels, Pod, State

_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_MAX_TEXT = 1024
_MAX_PODS = 2000
# Docker Engine API, ContainerState.Status; what is not named has ended
_STATES: dict[str, State] = {
    "created": "starting",
    "initialized": "starting",
    "configured": "starting",
    "restarting": "starting",
    "running": "running",
    "paused": "running",
}

Json = dict[str, Any]


def read_docker_container(data: bytes, container: str) -> tuple[Container, str]:
    """Read `GET /containers/ID/json` (Docker Engine API); return the container and the id of its image.

    Raises ValueError, with a sentence.
    """
    found = strict(data)
    if found.get("Id") != container:
        raise ValueError("it tells of another container")
    state, config = _object(found, "State"), _object(found, "Config")
    status = _STATES.get(_text(state, "Status"), "ended")
    pid = state.get("Pid")
    # a container that begins has no process yet
    if status == "running" and type(pid) is int and pid == 0:
        status = "starting"
    if status == "running" and (type(pid) is not int or pid <= 0):
        raise ValueError("it names no first process")
    image = _text(found, "Image")
    return Container(
        id=container,
        state=status,
        init=int(pid) if status == "running" and pid is not None else 0,
        image=_text(config, "Image"),
        digests=digests([image]),
        labels=labels(config.get("Labels")),
    ), image


def read_docker_image(data: bytes, image: str) -> tuple[str, ...]:
    """Read `GET /images/ID/json`: the digests of an image and of its manifests.

    Raises ValueError, with a sentence.
    """
    found = strict(data)
    if found.get("Id") != image:
        raise ValueError("it tells of another image")
    listed = _list(found, "RepoDigests")
    if not all(isinstance(item, str) for item in listed):
        raise ValueError("`RepoDigests` is no list of texts")
    return digests([image, *listed])


def read_cri_pid(text: str) -> int:
    """The first process of a container, out of the verbose part of a CRI status. Raises ValueError."""
    pid = strict(text.encode()).get("pid")
    if type(pid) is not int or pid < 0:
        raise ValueError("it names no first process")
    return pid


def read_pods(data: bytes) -> dict[str, Pod]:
    """Read a PodList (Kubernetes core/v1), as a kubelet's `/pods` answers it: the pods by uid.

    Raises ValueError, with a sentence.
    """
    found = strict(data)
    listed = _list(found, "items")
    if found.get("kind") != "PodList" or len(listed) > _MAX_PODS:
        raise ValueError("it is no list of pods")
    pods = [_pod(item) for item in listed]
    by_uid = {pod.uid: pod for pod in pods}
    if len(by_uid) != len(pods):
        raise ValueError("two pods have one uid")
    return by_uid


def read_pod(data: bytes) -> Pod:
    """Read a Pod (Kubernetes core/v1), as an API server answers it. Raises ValueError."""
    found = strict(data)
    if found.get("kind") != "Pod":
        raise ValueError("it is no pod")
    return _pod(found)


def _pod(found: object) -> Pod:
    if not isinstance(found, dict):
        raise ValueError("a pod is an object")
    metadata, spec = _object(found, "metadata"), _object(found, "spec")
    return Pod(
        uid=_text(metadata, "uid"),
        name=_text(metadata, "name"),
        namespace=_text(metadata, "namespace"),
        labels=labels(metadata.get("labels")),
        service_account=_text(spec, "serviceAccountName", is_needed=False),
    )


def digests(names: list[str]) -> tuple[str, ...]:
    """The content digests in names of images: `sha256:…`, or what stands behind the `@`. A tag is none."""
    found = [name.rpartition("@")[2] for name in names]
    return tuple(dict.fromkeys(item for item in found if _DIGEST.match(item)))


def labels(found: object) -> Labels:
    """Labels, sorted. Raises ValueError for what is no map of texts."""
    if found is None:
        return ()
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("labels are texts")
    return tuple(sorted(found.items()))


def strict(data: bytes) -> Json:
    """One JSON object in which no key stands twice. Raises ValueError."""
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"JSON has no {text}")


def _object(found: Json, name: str) -> Json:
    value = found.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` is no object")
    return value


def _list(found: Json, name: str) -> list[Any]:
    """A list; Go writes an empty one as null."""
    value = found.get(name)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"`{name}` is no list")
    return value or []


def _text(found: Json, name: str, *, is_needed: bool = True) -> str:
    value = found.get(name, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable() or (is_needed and not value):
        raise ValueError(f"`{name}` is no text")
    return value
