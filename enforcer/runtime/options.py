"""Where an agent asks about containers: read from its options, or found at the places where runtimes listen."""

from __future__ import annotations

import dataclasses
import os
import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal

from enforcer.runtime.container import Runtime
from enforcer.runtime.containers import Containers
from enforcer.runtime.pods import Cluster, Pods
from enforcer.runtime.sockets import check_socket, is_there
from mesh.problems import Invalid, Problem

Kind = Literal["docker", "cri"]
USUAL: dict[Kind, tuple[str, ...]] = {
    "docker": ("/run/docker.sock", "/run/podman/podman.sock"),
    "cri": ("/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"),
}
AUTO, NONE = "auto", "none"
_FIELDS = ("url", "ca", "token", "cert", "key", "name")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The sockets by kind, in the order in which they are asked, and who knows the pods."""

    docker: tuple[str, ...] = USUAL["docker"]
    cri: tuple[str, ...] = USUAL["cri"]
    cluster: Cluster | None = None

    @classmethod
    def parse(
        cls, docker: Sequence[str], cri: Sequence[str], kubelet: str | None = None, api: str | None = None
    ) -> Options:
        """Read an agent's options.

        Raises Invalid LM3475.
        """
        if kubelet is not None and api is not None:
            raise Invalid("LM3475", given=api, reason="a kubelet is named already")
        cluster = None
        if kubelet is not None:
            cluster = _cluster("kubelet", kubelet)
        elif api is not None:
            cluster = _cluster("api", api)
        return cls(docker=_sockets("docker", docker), cri=_sockets("cri", cri), cluster=cluster)

    def containers(self) -> Containers:
        """What asks there. Nothing is asked yet."""
        from enforcer.runtime.cri import Cri  # noqa: PLC0415  the rim; only agents build it
        from enforcer.runtime.docker import Docker  # noqa: PLC0415

        runtimes: list[Runtime] = [*map(Docker, self.docker), *map(Cri, self.cri)]
        usual = (path for paths in USUAL.values() for path in paths)
        return Containers(runtimes, Pods(self.cluster) if self.cluster is not None else None, optional=usual)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A runtime's socket as it is now. ``code`` is empty for one that can be used."""

    kind: str
    path: str
    code: str = ""
    reason: str = ""


def places(sockets: Sequence[tuple[str, str]]) -> list[Place]:
    """What is found at sockets, given as kind and path; the usual ones are left out where nothing stands."""
    usual = {path for paths in USUAL.values() for path in paths}
    found = []
    for kind, path in sockets:
        if path in usual and not is_there(path):
            continue
        try:
            check_socket(path)
        except Problem as problem:
            found.append(Place(kind=kind, path=path, code=problem.code, reason=str(problem.facts.get("reason", ""))))
        else:
            found.append(Place(kind=kind, path=path))
    return found


def _sockets(kind: Kind, given: Sequence[str]) -> tuple[str, ...]:
    if list(given) == [NONE]:
        return ()
    found: list[str] = []
    for item in given or (AUTO,):
        path = item.removeprefix("unix://")
        if item == AUTO:
            found += USUAL[kind]
        elif not path.startswith("/") or not path.isprintable() or len(os.fsencode(path)) > 107:
            raise Invalid("LM3475", given=item, reason="a socket is an absolute path of at most 107 bytes")
        else:
            found.append(path)
    return tuple(dict.fromkeys(found))


def _cluster(kind: Literal["kubelet", "api"], text: str) -> Cluster:
    """Read `url=https://HOST:PORT,ca=FILE,token=FILE`.

    1. Known fields, each once.
    2. HTTPS, with the certificate authority that vouches for the other side; there is no way around that.
    3. One proof of our own: a token, or a certificate and its key.
    """
    # (1)
    fields: dict[str, str] = {}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if not equals or not value or name not in _FIELDS or name in fields:
            raise Invalid("LM3475", given=text, reason=f"`{item}` is none of {', '.join(_FIELDS)}, or stands twice")
        fields[name] = value
    # (2)
    try:
        parts = urllib.parse.urlsplit(fields.get("url", ""))
        is_plain = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        is_plain = is_plain and parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        is_plain = False
    if not is_plain:
        raise Invalid("LM3475", given=text, reason="`url` is `https://HOST:PORT`")
    if "ca" not in fields:
        raise Invalid("LM3475", given=text, reason="`ca` is missing")
    if not _NAME.match(fields.get("name", "x")):
        raise Invalid("LM3475", given=text, reason="`name` is a host name")
    # (3)
    if {"token", "cert", "key"} & set(fields) not in ({"token"}, {"cert", "key"}):
        raise Invalid("LM3475", given=text, reason="either `token`, or `cert` and `key`")
    for name in ("ca", "token", "cert", "key"):
        if name in fields and not fields[name].startswith("/"):
            raise Invalid("LM3475", given=text, reason=f"`{name}` is an absolute path")
    fields["url"] = fields["url"].rstrip("/")
    return Cluster(kind=kind, **fields)
