"""`limen agent`: this host's agent, in the foreground."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from limen import lifecycle
from limen.cli import context
from mesh.problems import Invalid, first_problem

if TYPE_CHECKING:  # heavy imports only for the process that needs them
    from enforcer.nodestate import NodeState
    from enforcer.proof import Method
    from enforcer.runtime.options import Options
    from enforcer.tracing import Tracing
    from mesh.wrapping import WrappingKey

_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")


@click.command()
@click.option("--join", "url", required=True, help="The server's address, https://HOST:PORT.")
@click.option("--token", envvar="LIMEN_TOKEN", default=None, help="A join token; for the first time.")
@click.option(
    "--attest", "method", default=None, help="How this host proves what it is: x509pop:cert=FILE,key=FILE, tpm, …"
)
@click.option("--server-key", default=None, help="The pin of the server's key, sha256:…; needed with --attest.")
@click.option("--reviewers", default=None, help="The pin of the reviewer set, sha256:…; needed with --attest.")
@click.option("--advertise", default=None, help="The address at which other hosts reach listeners on all addresses.")
@click.option(
    "--docker-socket",
    "docker",
    multiple=True,
    envvar="LIMEN_DOCKER_SOCKET",
    help="Where a Docker engine, or Podman's service, is asked about containers: a path, auto (the default) or none.",
)
@click.option(
    "--cri-socket",
    "cri",
    multiple=True,
    envvar="LIMEN_CRI_SOCKET",
    help="Where a runtime of Kubernetes is asked (CRI v1; CRI-O: experimental): a path, auto (the default) or none.",
)
@click.option(
    "--kubelet",
    default=None,
    envvar="LIMEN_KUBELET",
    help="Where pods' service accounts are asked (experimental): url=https://HOST:10250,ca=FILE,token=FILE.",
)
@click.option(
    "--kube-api",
    default=None,
    envvar="LIMEN_KUBE_API",
    help="The same of an API server (experimental): url=https://HOST:PORT,ca=FILE,token=FILE.",
)
@click.option(
    "--sidecar-limit",
    "limits",
    multiple=True,
    envvar="LIMEN_SIDECAR_LIMIT",
    help="What a sidecar takes on, NAME=NUMBER: connections, connections_of_caller, handshakes, memory_bytes, …",
)
@click.option(
    "--trace-to",
    default=None,
    envvar="LIMEN_TRACE_TO",
    help="Where spans of requests go by OTLP/HTTP, http://HOST:4318: a collector, or Jaeger.",
)
@click.option(
    "--trace-ratio",
    type=float,
    default=0.01,
    show_default=True,
    envvar="LIMEN_TRACE_RATIO",
    help="How many of the requests that belong to no trace begin one, from 0 to 1.",
)
def agent(
    url: str,
    token: str | None,
    method: str | None,
    server_key: str | None,
    reviewers: str | None,
    advertise: str | None,
    docker: tuple[str, ...],
    cri: tuple[str, ...],
    kubelet: str | None,
    kube_api: str | None,
    limits: tuple[str, ...],
    trace_to: str | None,
    trace_ratio: float,
) -> None:
    """Run this host's agent in the foreground until SIGTERM.

    \b
    --attest takes one of:
      x509pop:cert=FILE,key=FILE     a certificate of a CA that the server trusts for this
      tpm                            this host's TPM 2.0, through tpm2-tools
      k8s:token=FILE                 a projected service account token (one that a kubelet mounts: experimental)
      oidc:token=FILE, oidc:env=NAME the token of a CI job
    and `,name=NAME` when the server has several attestors of that type. `limen node pins` prints the pins.

    Of a process in a container its runtime is asked, if its socket belongs to root and nobody else may replace it.
    """  # noqa: D301  click wants the character itself
    # nothing that this process starts has a use for the token
    os.environ.pop("LIMEN_TOKEN", None)
    from enforcer.native.limits import Limits  # noqa: PLC0415
    from enforcer.proof import Method  # noqa: PLC0415
    from enforcer.runtime.options import Options  # noqa: PLC0415
    from enforcer.tracing import Tracing  # noqa: PLC0415

    tracing = Tracing.parse(trace_to, trace_ratio)
    runtimes = Options.parse(docker, cri, kubelet, kube_api)
    told = Limits.parse(limits)
    parsed = Method.parse(method).settle() if method is not None else None
    ways = Ways(token=token, method=parsed, server_pin=server_key, reviewers_pin=reviewers)
    state = context.state()
    lifecycle.open_many_files()
    with lifecycle.only_one(state, "agent"):
        lifecycle.die_with_parent()
        with first_problem():
            asyncio.run(
                _run(state, url=url, ways=ways, advertise=advertise, runtimes=runtimes, limits=told, tracing=tracing)
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a host may be let in: with a join token, which carries the pins, or by attestation, with pins beside it."""

    token: str | None = dataclasses.field(repr=False)
    method: Method | None
    server_pin: str | None
    reviewers_pin: str | None


def _first_time(state: pathlib.Path, url: str, ways: Ways, wrapping: WrappingKey) -> NodeState:
    """Join, or attest this host, for the first time.

    Raises Invalid LM3445 without a way to, LM3452 for an attestation without pins.
    """
    from enforcer import join, nodestate, proof  # noqa: PLC0415
    from enforcer.door import Door  # noqa: PLC0415

    if ways.method is None:
        if ways.token is None:
            raise Invalid("LM3445")
        # saved before it is sent: killed in between, the same key uses the same token again
        return join.join(url, ways.token, nodestate.pending_key(state / "agent", wrapping))
    pins = (ways.server_pin, ways.reviewers_pin)
    for pin in pins:
        if pin is None or not _PIN.match(pin):
            raise Invalid("LM3452")
    server_pin, reviewers_pin = str(ways.server_pin), str(ways.reviewers_pin)
    key = nodestate.pending_key(state / "agent", wrapping)
    admission = proof.attest(ways.method, Door(url, server_pin), key, is_fresh=True)
    return join.begin(url, server_pin, reviewers_pin, admission)


async def _run(
    state: pathlib.Path,
    *,
    url: str,
    ways: Ways,
    advertise: str | None,
    runtimes: Options,
    limits: Mapping[str, int],
    tracing: Tracing | None,
) -> None:
    from enforcer import agentmetrics, nodestate  # noqa: PLC0415  heavy imports only for the process that needs them
    from enforcer.agent import Agent  # noqa: PLC0415
    from enforcer.proof import attest_again  # noqa: PLC0415
    from mesh import telemetry  # noqa: PLC0415
    from mesh.clock import SystemClock  # noqa: PLC0415
    from mesh.settings import prepare_state  # noqa: PLC0415
    from mesh.wrapping import load_wrapping_key  # noqa: PLC0415

    stop = lifecycle.stop_event(asyncio.get_running_loop())
    lifecycle.keep_little_memory()
    telemetry.configure()
    prepare_state(state)
    clock = SystemClock()
    key_file = os.environ.get("LIMEN_KEY_FILE")
    wrapping = load_wrapping_key(state / "agent", pathlib.Path(key_file) if key_file else None)
    found = nodestate.load(state / "agent", wrapping)
    if found is None:
        found = await asyncio.to_thread(_first_time, state, url, ways, wrapping)
        nodestate.save(state / "agent", found, wrapping)
    elif found.url != url:
        found.url = url
    if ways.token is not None:
        # the server's ports may be new ones since the last time; the pinned key is what matters
        found.node_api = await asyncio.to_thread(_node_api, state, found.node_api)
    ready = asyncio.Event()
    attest = functools.partial(attest_again, ways.method) if ways.method is not None else None
    agent = Agent(
        state,
        found,
        wrapping,
        clock=clock,
        advertise=advertise,
        attest=attest,
        runtimes=runtimes,
        limits=limits,
        tracing=tracing,
    )
    agentmetrics.publish(agent.signals)
    metrics = telemetry.serve_metrics()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(agent.run(stop, ready))
        waiting = tasks.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            lifecycle.keep_what_is_loaded()
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
