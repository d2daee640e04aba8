"""`limen check`: whether this installation is sound, and what this host can and cannot guard."""

from __future__ import annotations

import itertools
import json

import click

from limen.checks import host
from limen.checks.authorities import acme_authorities, authorities
from limen.checks.exports import exports
from limen.checks.federation import relationships
from limen.checks.files import files
from limen.checks.result import Result
from limen.checks.runtimes import runtimes
from limen.cli import context, render
from limen.client import Client
from mesh.clock import SystemClock
from mesh.problems import Problem, Unavailable

_MARKS = {"ok": "√", "warning": "‼", "error": "×"}  # noqa: RUF001  the field's check marks


@click.command()
@click.option("--pre", is_flag=True, help="Only what can be checked before anything runs.")
@click.option("--strict", is_flag=True, help="Exit status 1 on warnings too.")
@context.output_option("table", "json")
def check(output: str, *, pre: bool, strict: bool) -> int:
    """Check this installation and what it can guard."""
    missing = host.left_out(context.state() / "control.sock")
    found = [*host.installation(), *host.state(context.state()), *host.kernel(), *host.guards(missing)]
    found += runtimes(context.state())
    if not pre:
        found += _running()
    if output == "json":
        render.data([item.to_json() for item in found])
    else:
        _show(found)
    levels = {item.level for item in found}
    return 1 if "error" in levels or (strict and "warning" in levels) else 0


def _running() -> list[Result]:
    """What the server and its agents say of themselves."""
    from limen.checks.result import failed, passed, warned  # noqa: PLC0415  beside their one use
    from limen.exportstate import standings  # noqa: PLC0415

    group = "running"
    try:
        server = Client(context.state() / "server.sock")
        status = server.call("GET", "/v1/status")
        federated = relationships(server.call("GET", "/v1/federation"))
        saved = files(server.call("GET", "/v1/files"))
        now = SystemClock().now()
        signing = authorities(server.call("GET", "/v1/authorities"), now)
        signing += acme_authorities(server.call("GET", "/v1/acme/status"), now)
    except Unavailable as problem:
        return [warned(group, problem.message, problem.code, problem.help)]
    except (Problem, json.JSONDecodeError) as problem:
        return [failed(group, str(problem), "LM5202", "compare the versions of server and command")]
    found = [passed(group, f"the server of {status['trust_domain']} answers")]
    for agent in status["agents"]:
        if not agent["is_connected"]:
            hint = "look at that host; what runs there goes on until its identities expire"
            found.append(warned(group, f"the agent of {agent['node']} is away", "LM5254", hint))
        elif not agent["is_current"]:
            hint = "run `limen status`"
            text = f"the agent of {agent['node']} applies epoch {agent['epoch']}, not {status['epoch']}"
            found.append(failed(group, text, "LM5255", hint))
        else:
            found.append(passed(group, f"the agent of {agent['node']} applies epoch {agent['epoch']}"))
    found += [
        warned(
            group,
            f"{service['name']} only observes until {service['until']}",
            "LM5256",
            "enforce it: leave out `mode: observe` and publish",
        )
        for service in status["services"]
        if service["mode"] == "observe"
    ]
    return [*found, *saved, *signing, *federated, *exports(standings(context.state()), SystemClock().now())]


def _show(found: list[Result]) -> None:
    for group, rows in itertools.groupby(found, key=lambda item: item.group):
        render.line(group)
        for item in rows:
            render.line(f"{_MARKS[item.level]} {item.text}" + (f"  {item.code}" if item.code else ""))
            if item.hint:
                render.line(f"    {item.hint}")
    counts = [sum(item.level == level for item in found) for level in ("ok", "warning", "error")]
    render.line(f"{counts[0]} passed, {counts[1]} warnings, {counts[2]} errors")
