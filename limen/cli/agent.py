"""`limen agent`: this host's agent, in the foreground."""

from __future__ import annotations

import asyncio
import os
import pathlib

import click

from limen import lifecycle
from limen.cli import context
from mesh.problems import Invalid, first_problem


@click.command()
@click.option("--join", "url", required=True, help="The server's address, https://HOST:PORT.")
@click.option("--token", envvar="LIMEN_TOKEN", default=None, help="A join token; needed for the first time.")
@click.option("--advertise", default=None, help="The address at which other hosts reach listeners on all addresses.")
def agent(url: str, token: str | None, advertise: str | None) -> None:
    """Run this host's agent in the foreground until SIGTERM."""
    # nothing that this process starts has a use for the token
    os.environ.pop("LIMEN_TOKEN", None)
    state = context.state()
    with lifecycle.only_one(state, "agent"):
        lifecycle.die_with_parent()
        with first_problem():
            asyncio.run(_run(state, url=url, token=token, advertise=advertise))


async def _run(state: pathlib.Path, *, url: str, token: str | None, advertise: str | None) -> None:
    from enforcer import nodestate  # noqa: PLC0415  heavy imports only for the process that needs them
    from enforcer.agent import Agent  # noqa: PLC0415
    from enforcer.join import join  # noqa: PLC0415
    from mesh import telemetry  # noqa: PLC0415
    from mesh.clock import SystemClock  # noqa: PLC0415
    from mesh.settings import prepare_state  # noqa: PLC0415
    from mesh.wrapping import load_wrapping_key  # noqa: PLC0415

    stop = lifecycle.stop_event(asyncio.get_running_loop())
    telemetry.configure()
    prepare_state(state)
    clock = SystemClock()
    key_file = os.environ.get("LIMEN_KEY_FILE")
    wrapping = load_wrapping_key(state / "agent", pathlib.Path(key_file) if key_file else None)
    found = nodestate.load(state / "agent", wrapping)
    if found is None:
        if token is None:
            raise Invalid("LM3445")
        # saved before it is sent: killed in between, the same key uses the same token again
        key = nodestate.pending_key(state / "agent", wrapping)
        found = await asyncio.to_thread(join, url, token, key)
        nodestate.save(state / "agent", found, wrapping)
    elif found.url != url:
        found.url = url
    if token is not None:
        # the server's ports may be new ones since the last time; the pinned key is what matters
        found.node_api = await asyncio.to_thread(_node_api, state, found.node_api)
    ready = asyncio.Event()
    agent = Agent(state, found, wrapping, clock=clock, advertise=advertise)
    metrics = telemetry.serve_metrics()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(agent.run(stop, ready))
        waiting = tasks.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            lifecycle.announce(
                state,
                "agent",
                {
                    "workload_api": f"unix://{state / 'agent.sock'}",
                    "control": str(state / "control.sock"),
                    "metrics": f"http://127.0.0.1:{metrics}/metrics",
                },
            )
        await running
        waiting.cancel()
    lifecycle.retire(state, "agent")


def _node_api(state: pathlib.Path, known: str) -> str:
    """The node API of a server that runs on the same state, which may listen on another port each time."""
    import json  # noqa: PLC0415

    try:
        row = json.loads((state / "run" / "server.json").read_text("utf-8"))
        return str(row["addresses"]["node"])
    except (OSError, ValueError, KeyError):
        return known
