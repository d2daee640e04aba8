"""Asks a Docker engine, or Podman's compatible service, of a container: the Engine API at its Unix socket.

Two questions that change nothing: the container, then its image for the digests of its manifests.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Literal

from enforcer.runtime import answers
from enforcer.runtime.container import Container
from enforcer.runtime.fetch import get
from enforcer.runtime.sockets import check_socket
from mesh.problems import Unavailable

WITHIN_S = 2.0
# a container with hundreds of mounts and labels is some 100 KB
MAX_BYTES = 2 << 20


class Docker:
    """One engine at its socket."""

    kind: Literal["docker", "cri"] = "docker"

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def source(self) -> str:
        """Who it is, for people."""
        return f"docker at {self.path}"

    async def inspect(self, container: str) -> Container | None:
        """What it knows of a container (`enforcer.runtime.container.Runtime`)."""
        path = await asyncio.to_thread(check_socket, self.path)
        status, data = await self._get(path, f"/containers/{container}/json")
        if status == 404:
            return None
        with self._reading(status):
            found, image = answers.read_docker_container(data, container)
        # only an id that is a digest stands in a path that we ask for
        if not found.digests or found.state != "running":
            return found
        status, data = await self._get(path, f"/images/{image}/json")
        if status == 404:
            # it was removed while its container runs: its own digest is known all the same
            return found
        with self._reading(status):
            return dataclasses.replace(found, digests=answers.read_docker_image(data, image))

    async def _get(self, socket: str, path: str) -> tuple[int, bytes]:
        try:
            return await get(f"http://docker{path}", limit=MAX_BYTES, within_s=WITHIN_S, socket=socket)
        except OSError as err:
            raise Unavailable("LM3472", runtime=self.source, reason=err.strerror or str(err)) from err
        except ValueError as err:
            raise Unavailable("LM3473", runtime=self.source, reason=str(err)) from err

    @contextlib.contextmanager
    def _reading(self, status: int) -> Iterator[None]:
        if status != 200:
            raise Unavailable("LM3472", runtime=self.source, reason=f"it answers with status {status}")
        try:
            yield
        except ValueError as err:
            raise Unavailable("LM3473", runtime=self.source, reason=str(err)) from err
