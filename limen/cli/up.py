"""`limen up`: a server and an agent on this machine, in the foreground, until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Mapping, Sequence

import click

from limen import lifecycle
from limen.cli import context
from limen.client import Client
from limen.supervisor import Part, wait_ready
from mesh.problems import Invalid, first_problem


@click.command()
@click.option("--trust-domain", default="limen.local", show_default=True, help="Name of the trust domain.")
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address, or ADDRESS:PORT, to serve on.")
@click.option(
    "--reviewers",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The first reviewer set; one local key by default.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="A web certificate for the public port: PEM chain, leaf first.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The private key of `--tls-cert`, PEM.",
)
@click.option("--upstream", default=None, help="Who signs issuing certificates, as for `limen server`.")
@click.option("--key-source", default=None, help="Where signing keys are kept, as for `limen server`.")
@click.option("--key-algorithm", default=None, help="Kind of key of new authorities, as for `limen server`.")
@click.option("--signers", default=None, help="Processes that sign large batches, as for `limen server`.")
@click.option("--connect-rate", default=None, help="How often one address may connect, as for `limen server`.")
@click.option("--connect-burst", default=None, help="How often one address may connect at once, as for `limen server`.")
@click.option("--learn-days", default=None, help="For how many days the learner remembers, as for `limen server`.")
@click.option("--jwt-issuer", default=None, help="URL of the OIDC issuer that JWT-SVIDs name.")
@click.option(
    "--federation-listen",
    default=None,
    help="ADDRESS, or ADDRESS:PORT, of the https_spiffe bundle endpoint.  [default: beside --listen, any free port]",
)
@click.option(
    "--opa-reader",
    "opa_readers",
    multiple=True,
    help="SPIFFE ID or pattern that may fetch the policies as an OPA bundle; may be repeated (docs/guides/opa.md).",
)
@click.option(
    "--authzen-caller",
    "authzen_callers",
    multiple=True,
    help="SPIFFE ID or pattern that may ask the AuthZEN API; may be repeated (docs/guides/authzen.md).",
)
def up(
    trust_domain: str,
    listen: str,
    reviewers: pathlib.Path | None,
    tls_cert: pathlib.Path | None,
    tls_key: pathlib.Path | None,
    jwt_issuer: str | None,
    upstream: str | None,
    key_source: str | None,
    key_algorithm: str | None,
    signers: str | None,
    connect_rate: str | None,
    connect_burst: str | None,
    learn_days: str | None,
    federation_listen: str | None,
    opa_readers: tuple[str, ...],
    authzen_callers: tuple[str, ...],
) -> None:
    """Run a server and an agent on this machine, in the foreground, until SIGTERM."""
    if key_algorithm == "ml-dsa-65":
        # the agent of this very command could never connect
        raise Invalid("LM1318")
    state = context.state()
    with lifecycle.only_one(state, "up"):
        lifecycle.die_with_parent()
        with first_problem():
            asyncio.run(
                run_up(
                    state,
                    trust_domain=trust_domain,
                    listen=listen,
                    extra=_given(
                        {"--reviewers": reviewers, "--tls-cert": tls_cert, "--tls-key": tls_key},
                        {
                            "--jwt-issuer": jwt_issuer,
                            "--federation-listen": federation_listen,
                            "--upstream": upstream,
                            "--key-source": key_source,
                            "--key-algorithm": key_algorithm,
                            "--signers": signers,
                            "--connect-rate": connect_rate,
                            "--connect-burst": connect_burst,
                            "--learn-days": learn_days,
                        },
                    )
                    + [word for reader in opa_readers for word in ("--opa-reader", reader)]
                    + [word for caller in authzen_callers for word in ("--authzen-caller", caller)],
                )
            )


def _given(files: Mapping[str, pathlib.Path | None], texts: Mapping[str, str | None]) -> list[str]:
    """The options of the server that were given, as words."""
    found = {name: str(path.absolute()) for name, path in files.items() if path is not None}
    found |= {name: text for name, text in texts.items() if text is not None}
    return [word for pair in found.items() for word in pair]


async def run_up(state: pathlib.Path, *, trust_domain: str, listen: str, extra: Sequence[str] = ()) -> None:
    """Run both parts until a signal; the agent joins with a token that only this process sees."""
    stop = lifecycle.stop_event(asyncio.get_running_loop())

    async def server_arguments() -> tuple[Sequence[str], dict[str, str]]:
        return ["--state", str(state), "server", "--trust-domain", trust_domain, "--listen", listen, *extra], {}

    async def agent_arguments() -> tuple[Sequence[str], dict[str, str]]:
        await wait_ready(server)
        run = json.loads((state / "run" / "server.json").read_text("utf-8"))
        client = Client(state / "server.sock")
        token = await asyncio.to_thread(client.call, "POST", "/v1/tokens", {})
        # by environment: a command line is world-readable
        return (
            ["--state", str(state), "agent", "--join", run["addresses"]["tls"]],
            {"LIMEN_TOKEN": token["token"]},
        )

    server = Part("server", server_arguments)
    agent = Part("agent", agent_arguments)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.run()), group.create_task(agent.run())]

        async def readiness() -> None:
            await wait_ready(server)
            await wait_ready(agent)
            lifecycle.announce(state, "up", {})

        tasks.append(group.create_task(readiness()))
        try:
            await stop.wait()
        finally:
            await agent.stop()
            await server.stop()
            lifecycle.retire(state, "up")
            for task in tasks:
                task.cancel()
