"""Runs a witness: one HTTP door, bounded in bodies, time and connections, over the state in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from audit.checkpoint import VerifierKey
from limen import lifecycle
from limen.witnessing import Door, Witness
from mesh import telemetry
from mesh.clock import SystemClock
from mesh.problems import Invalid

_MOST = 64
_IDLE_S = 5


class _Server(uvicorn.Server):
    """A server that leaves signals to `lifecycle`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def run(folder: pathlib.Path, *, name: str, logs: Iterable[VerifierKey], listen: str) -> None:
    """Witness logs until SIGTERM or SIGINT.

    Raises what `Witness` raises, and Invalid LM5212 for an address that cannot be listened on.
    """
    witness = Witness(folder, name, logs, SystemClock())
    try:
        asyncio.run(_serve(witness, folder, listen))
    finally:
        witness.close()


async def _serve(witness: Witness, folder: pathlib.Path, listen: str) -> None:
    stop = lifecycle.stop_event(asyncio.get_running_loop())
    listener = _listen(listen)
    telemetry.configure()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    with ThreadPoolExecutor(1, "witness") as worker:
        config = uvicorn.Config(
            Door(witness, worker),
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=16384,
            limit_concurrency=_MOST,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_IDLE_S,
        )
        server = _Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            lifecycle.announce(folder, "witness", {"url": f"http://{shown}:{port}", "key": str(witness.key)})
            await stop.wait()
            server.should_exit = True
    lifecycle.retire(folder, "witness")


def _listen(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), int(port)))
        found.listen(_MOST)
    except (OSError, ValueError, OverflowError) as err:
        found.close()
        raise Invalid("LM5212", address=listen, reason=getattr(err, "strerror", None) or str(err)) from err
    return found
