"""The root of the `limen` command: a group that imports a command's module only when it runs.

`limen --help` must answer in 150 ms, so nothing here imports more than click. Exit status: 0 yes, 1 no, 2 usage
or unreadable input, 3 server unreachable, 4 not allowed, 70 bug.
"""

from __future__ import annotations

import importlib
import os
import pathlib
from typing import Any

import click

# name -> (module, attribute, help): the help stands here so that `limen --help` imports no command
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("limen.cli.demo", "demo", "Run the whole loop with real processes on loopback."),
    "up": ("limen.cli.up", "up", "Run a server and an agent on this machine."),
    "server": ("limen.cli.server", "server", "Run the server: authority, policies, reviews, audit."),
    "agent": ("limen.cli.agent", "agent", "Run this host's agent."),
    "run": ("limen.cli.run", "run", "Launch a program as a workload with its sidecar."),
    "sidecar": ("limen.cli.sidecar", "sidecar", "Put new sidecars in the place of running ones."),
    "env": ("limen.cli.env", "env", "Print the environment that points programs at the Workload API."),
    "token": ("limen.cli.token", "token", "Make join tokens."),
    "node": ("limen.cli.node", "node", "List, ban and allow nodes."),
    "check": ("limen.cli.check", "check", "Check this installation and what it can guard."),
    "status": ("limen.cli.status", "status", "Show what runs and what it applies."),
    "can": ("limen.cli.can", "can", "Ask whether SOURCE may call SERVICE, and why."),
    "explain": ("limen.cli.explain", "explain", "Explain a code such as LM2104, or a recorded decision."),
    "policy": ("limen.cli.policy", "policy", "Lint, evaluate, plan and publish policies."),
    "review": ("limen.cli.review", "review", "Propose, approve and activate changes."),
    "reviewer": ("limen.cli.reviewer", "reviewer", "Make reviewer keys."),
    "identity": ("limen.cli.identity", "identity", "Show identities and explain them."),
    "spiffe-conformance": (
        "limen.cli.spiffeconformance",
        "conformance",
        "Check any Workload API against the SPIFFE standards.",
    ),
    "bundle": ("limen.cli.bundle", "bundle", "Show the trust bundle."),
    "flows": ("limen.cli.flows", "flows", "Show flows."),
    "learn": ("limen.cli.learn", "learn", "Propose policies from traffic."),
    "audit": ("limen.cli.audit", "audit", "Read, verify and export the audit log."),
    "federation": ("limen.cli.federation", "federation", "Believe identities of other trust domains."),
    "acme": ("limen.cli.acme", "acme", "Issue web certificates by ACME, under a root of its own."),
    "install": (
        "limen.cli.install",
        "install",
        "Print files for other tools: a Grafana dashboard, what Prometheus scrapes.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        del ctx
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, attribute, _ = found
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--state` and `--server` from anywhere before `--`: they belong to every command."""
        return super().parse_args(ctx, hoist(args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command and suggest the nearest name for an unknown one."""
        if args and args[0] not in COMMANDS:
            import difflib  # noqa: PLC0415  only for a typo

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f": did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"no command `{args[0]}`{hint}")
        return super().resolve_command(ctx, args)


def hoist(args: list[str]) -> list[str]:
    """Move the options of every command to the front, so that they may stand after the command too."""
    front: list[str] = []
    rest: list[str] = []
    queue = list(args)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += [word, *queue]
            break
        if word in {"--state", "--server"} and queue:
            front += [word, queue.pop(0)]
        elif word.startswith(("--state=", "--server=")):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def default_state() -> pathlib.Path:
    """Where a local installation keeps its state."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111, PTH118  pathlib costs start-up time
    return pathlib.Path(base) / "limen"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(path_type=pathlib.Path),
    envvar="LIMEN_STATE",
    default=None,
    help="Directory with all state of a local installation.",
)
@click.option("--server", envvar="LIMEN_SERVER", default=None, help="URL of a remote server.")
@click.version_option(package_name="limen", prog_name="limen")
@click.pass_context
def cli(ctx: click.Context, state: pathlib.Path | None, server: str | None) -> None:
    """Zero trust for services: identities, learned policies, signed reviews, provable audit."""
    found: dict[str, Any] = ctx.ensure_object(dict)
    found["state"] = (state or default_state()).absolute()
    found["state_given"] = state is not None
    found["server"] = server
