"""`limen learn status`: what the learner beside the server has seen, and what a proposal from it would risk."""

from __future__ import annotations

import click

from learner.drift import counts_of, find_drift
from learner.history import History, moment
from learner.judge import Judge
from learner.propose import learn as learn_from
from learner.propose import propose_from
from learner.risk import Proposal, Watch
from limen import client
from limen.cli import context, render
from mesh.clock import format_time
from mesh.problems import NotFound
from mesh.uncollected import uncollected

Json = dict[str, object]


@click.command("status")
@context.output_option("table", "json")
def status(output: str) -> None:
    """Show what the server's learner has seen, and how ready each service is to be enforced.

    Drift against the active policies is counted too; `limen learn drift` lists it.
    """
    from limen.cli.learnserver import known_to_server  # noqa: PLC0415  asks the server

    with uncollected():
        known = known_to_server()
        history = known.memory.history
        watch = Watch(looks=known.memory.looks + 1, identities=known.identities, losses=known.losses)
        found = propose_from(history, watch)
        parted = _drift(known.memory.history)
    learner: Json = {
        "flows": history.flows,
        "kinds": len(history.kinds),
        "edges": len({kind.edge for kind in history.kinds.values()}),
        "first": format_time(moment(history.first)),
        "last": format_time(moment(history.last)),
        "saved": format_time(moment(float(known.standing["saved"]))),
        **{name: known.standing[name] for name in ("waiting", "lost", "odd")},
    }
    if output == "json":
        whole = found.to_json()
        names = ("rules", "services", "worst", "open", "quarantined", "unattributed", "losses")
        render.data({"learner": learner, **{name: whole[name] for name in names}, "drift": parted})
        return
    render.line(f"learned from  {learner['flows']} flows, {learner['first']} to {learner['last']}")
    render.line(f"knows         {learner['edges']} edges, {learner['kinds']} kinds of calls")
    for text in known.losses:
        render.line(f"‼ {text}")
    _show(found)
    if parted is None:
        render.say("no release is active: limen learn propose --out policies")
    else:
        render.line("drift         " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in parted.items()))


def _show(found: Proposal) -> None:
    render.table(
        [
            (
                report.service,
                report.coverage.sessions,
                report.coverage.days,
                f"{report.coverage.session_bound_95:.2%}",
                f"{report.coverage.day_bound_95:.0%}",
                report.gate.colour,
            )
            for report in found.reports
        ],
        ("service", "sessions", "days", "next session", "next day", "gate"),
    )
    for report in found.reports:
        for text in report.gate.to_green:
            render.say(f"  would make {report.service} green: {text}")
    if found.quarantined:
        render.line(f"quarantined   {len(found.quarantined)}: limen learn propose lists each with its reason")


def _drift(history: History) -> dict[str, int] | None:
    """How much of each kind of drift there is; None when no policies are active."""
    try:
        _, policies = client.active_policies()
    except NotFound:
        return None
    found = find_drift(history, learn_from(history, Watch()), Judge(policies))
    return counts_of(found)
