"""`limen status`: what runs, what it applies, what this host cannot guard."""

from __future__ import annotations

import click

from limen import client
from limen.cli import context, render
from mesh.problems import Unavailable


@click.command()
@context.output_option("table", "json")
def status(output: str) -> None:
    """Show what runs and what it applies."""
    found = client.call("GET", "/v1/status")
    if output == "json":
        render.data(found)
        return
    render.line(f"trust domain  {found['trust_domain']}")
    render.line(f"snapshot      {found['snapshot'] or 'none is active'}  epoch {found['epoch']}")
    if found["candidate"]:
        render.line(f"candidate     {found['candidate']}")
    render.line(
        f"records       {found['records']}   flows {found['flow_connections']}   handshakes {found['handshakes']}"
    )
    rows = [
        (
            row["node"],
            "yes" if row["is_connected"] else "no",
            row["sidecars"],
            row["epoch"],
            "yes" if row["is_current"] else "no",
            "; ".join(f"{code} {detail}" for code, detail in row["refusals"]) or "-",
        )
        for row in found["agents"]
    ]
    render.table(rows, ("agent", "connected", "sidecars", "epoch", "current", "refused"))
    for service in found["services"]:
        if service["mode"] == "observe":
            render.line(f"‼ {service['name']} only observes until {service['until']}: it denies nothing but guardrails")
    for name, reason in _left_out().items():
        render.line(f"‼ not guarded here: {name}: {reason}")


def _left_out() -> dict[str, str]:
    """What this host cannot guard, as its agent says; nothing when no agent runs here."""
    from enforcer import control  # noqa: PLC0415  only this command speaks to the agent

    try:
        answer = control.ask(context.state() / "control.sock", {"type": "status"})
    except Unavailable:
        return {}
    found = answer.get("left_out")
    return {str(name): str(reason) for name, reason in found.items()} if isinstance(found, dict) else {}
