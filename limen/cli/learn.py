"""`limen learn`: proposes policies from traffic, with what they may break."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib

import click

from learner.drift import find_drift
from learner.egress import Gateway, egress_service, read_gateway
from learner.history import History
from learner.judge import Judge
from learner.naming import service_names
from learner.proposal import ProposedService
from learner.propose import learn as learn_from
from learner.propose import propose_from
from learner.replay import would_deny
from learner.revise import Revision, renamed
from learner.risk import Proposal, Watch
from limen.cli import context, render
from limen.cli.learndrift import drift, unused_option
from limen.cli.learnexport import TARGETS, export_to
from limen.cli.learnfigure import figure
from limen.cli.learninput import (
    Traffic,
    read_traffic,
    remember,
    schedules_of,
    specs_of,
    traffic_options,
    trust_domain_of,
)
from limen.cli.learnstatus import status
from limen.cli.learntree import add_egress, policies_of, revision_of, write_tree
from mesh.problems import Invalid
from mesh.uncollected import uncollected
from policyengine.model import PolicySet


@click.group()
def learn() -> None:
    """Propose policies from traffic."""


learn.add_command(drift)
learn.add_command(figure)
learn.add_command(status)


@learn.command("propose")
@traffic_options
@click.option(
    "--policies",
    "tree",
    type=click.Path(exists=True, path_type=pathlib.Path),
    help="A tree that is there: it is kept, and only extended or tightened.",
)
@click.option("--spec", "specs", multiple=True, help="OpenAPI, `.proto` or HTTPRoute: FILE or SERVICE=FILE.")
@click.option(
    "--held-out", type=click.DateTime(["%Y-%m-%d"]), help="A day (UTC) not to learn from, and to replay at the end."
)
@click.option(
    "--looks",
    type=click.IntRange(min=1),
    help="How often you look at the numbers until you decide; more than one widens the bounds. [default: 1, or as often"
    " as the history was used]",
)
@click.option(
    "--egress",
    "gateway",
    metavar="SPIFFE_ID:PORT",
    help="The gateway that calls to names outside leave by: they become rules of its service.",
)
@unused_option
@click.option("--export", "targets", multiple=True, type=click.Choice(TARGETS), help="Objects of another system, too.")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=pathlib.Path), help="Where the tree goes."
)
@context.output_option("table", "json")
def propose_command(
    files: tuple[pathlib.Path, ...],
    form: str,
    workloads: pathlib.Path | None,
    schedules: tuple[pathlib.Path, ...],
    history: pathlib.Path | None,
    tree: pathlib.Path | None,
    specs: tuple[str, ...],
    held_out: dt.datetime | None,
    looks: int | None,
    gateway: str | None,
    unused_after: int,
    targets: tuple[str, ...],
    out: pathlib.Path,
    output: str,
) -> None:
    """Write a policy tree that covers what was seen, and say what it may break."""
    day = held_out.date() if held_out is not None else None
    way_out = _gateway(gateway)
    with uncollected():
        traffic = read_traffic(files, form, workloads, history, day)
    if day is not None and not traffic.held_out:
        first, last = (dt.datetime.fromtimestamp(at, dt.UTC).date() for at in _span(traffic))
        raise Invalid("LM4034", day=day, first=first, last=last)
    memory = traffic.memory
    watch = Watch(
        schedules=schedules_of(schedules),
        looks=looks or memory.looks + 1,
        restarts=memory.restarts,
        identities=traffic.identities,
        losses=traffic.losses,
    )
    render.progress(f"learning from {traffic.history.flows} flows")
    with uncollected():
        found, texts, policies = _propose(traffic, watch, tree, specs, unused_after)
        if way_out is not None:
            file = add_egress(texts, policies, egress_of(traffic.history, watch, policies, way_out))
            policies = policies_of(texts)
            found = _with(found, egress_rules=file)
    if day is not None:
        total, rows = would_deny(policies, traffic.held_out)
        found = _with(found, held_out={"day": str(day), "connections": total, "would_deny": rows})
    if history is not None:
        restarted = memory.looked({unit.kind.key for unit in found.units if not unit.is_denied})
        found = _with(found, restarted=restarted, looks=memory.looks)
        memory.coverage.append(_point(traffic, found))
    written = write_tree(texts, out, tree)
    exported = [export_to(target, policies, out, workloads, trust_domain_of()) for target in targets]
    if exported:
        found = _with(found, exported=exported)
    found = _with(found, sources=[ledger.to_json() for ledger in traffic.ledgers])
    remember(memory, history)
    if output == "json":
        render.data(found.to_json())
    else:
        _show(found, out, traffic.history.last - traffic.history.first, written)


def _propose(
    traffic: Traffic, watch: Watch, tree: pathlib.Path | None, specs: tuple[str, ...], unused_after: int
) -> tuple[Proposal, dict[str, str], PolicySet]:
    """The proposal, the files of its tree, and what they say."""
    known = specs_of(specs)
    if tree is None:
        texts: dict[str, str] = {}
        made: list[PolicySet] = []

        def read_back(services: tuple[ProposedService, ...]) -> PolicySet:
            texts.update((f"{service.name}.yaml", service.to_yaml()) for service in services)
            decisive = {f"{service.name}.yaml": service.to_yaml(evidence=False) for service in services}
            made.append(policies_of(decisive) if decisive else PolicySet())
            return made[0]

        found = propose_from(traffic.history, watch, known, tree=read_back)
        return found, texts, made[0]
    revision = revision_of(tree)
    revise(revision, traffic, watch, tree_specs=specs, unused_after=unused_after)
    policies = policies_of(revision.texts)
    found = propose_from(traffic.history, watch, known, tree=lambda _: policies)
    named = {item.identity: item.name for item in renamed(found.services, policies)}
    found = dataclasses.replace(
        found,
        services=renamed(found.services, policies),
        reports=tuple(dataclasses.replace(report, service=named[report.identity]) for report in found.reports),
    )
    return _with(found, changes=[item.to_json() for item in revision.changes]), revision.texts, policies


def revise(
    revision: Revision, traffic: Traffic, watch: Watch, *, tree_specs: tuple[str, ...], unused_after: int
) -> None:
    """Extend and tighten a tree by what was watched."""
    lesson = learn_from(traffic.history, watch, specs_of(tree_specs))
    parted = find_drift(traffic.history, lesson, Judge(revision.policies), watch.schedules, unused_after)
    revision.extend(lesson)
    revision.tighten(parted.tightenings())


def _gateway(text: str | None) -> Gateway | None:
    try:
        return None if text is None else read_gateway(text)
    except ValueError as err:
        raise click.BadParameter(str(err), param_hint="--egress") from err


def egress_of(history: History, watch: Watch, policies: PolicySet, gateway: Gateway) -> ProposedService | None:
    """The gateway's service with its rules, under the name that a tree has for it, or one that is free.

    Raises click.BadParameter when the tree's service has no such port.
    """
    known = policies.service_for(gateway.identity)
    if known is None:
        name = service_names([gateway.identity], [item.name for item in policies.services])[gateway.identity]
    else:
        name = known.name
        if (gateway.port, "http") not in {(item.port, str(item.protocol)) for item in known.ports}:
            raise click.BadParameter(f"the service {name} has no http port {gateway.port}", param_hint="--egress")
    return egress_service(history, learn_from(history, watch), gateway, name)


def _with(found: Proposal, **more: object) -> Proposal:
    return dataclasses.replace(found, extra={**found.extra, **more})


def _span(traffic: Traffic) -> tuple[float, float]:
    return traffic.history.first, traffic.history.last


def _point(traffic: Traffic, found: Proposal) -> dict[str, object]:
    """How well the proposal covered what came, at this moment: a point of the figure."""
    return {
        "at": traffic.history.last,
        "sessions": found.total.sessions,
        "session": found.total.session_bound_95,
        "hour": found.total.hour_bound_95,
        "day": found.total.day_bound_95,
        "rules": found.rules,
    }


def _show(found: Proposal, out: pathlib.Path, seconds: float, written: list[str]) -> None:
    render.table(
        [
            (
                report.service,
                len(service.rules),
                report.coverage.sessions,
                report.coverage.days,
                f"{report.coverage.session_bound_95:.2%}",
                f"{report.coverage.day_bound_95:.0%}",
                report.gate.colour,
            )
            for report, service in zip(found.reports, found.services, strict=True)
        ],
        ("service", "rules", "sessions", "days", "next session", "next day", "gate"),
    )
    render.say(
        f"{found.rules} rules from {seconds:.0f} s of traffic, {len(written)} files written to {out}. 95 %: the next"
        " session (or day) holds something uncovered with at most this probability, if sessions and days to come are"
        " like those seen"
    )
    for report in found.reports:
        for text in report.open:
            render.say(f"  open  {report.service}: {text}")
        for text in report.gate.to_green:
            render.say(f"  would make {report.service} green: {text}")
    _show_rest(found)
    render.say(f"next: limen policy plan --policies {out} --against active")


def _show_rest(found: Proposal) -> None:
    if found.worst is not None:
        render.say(f"  least is known of {found.worst.service}")
    for text in found.open:
        render.say(f"  open  {text}")
    for item in found.quarantined:
        render.say(f"  quarantined  {item.source} → {item.destination}:{item.port}: {item.reason} ({item.evidence})")
        render.say(f"      released when {item.release}")
    changes = found.extra.get("changes")
    for change in changes if isinstance(changes, list) else ():
        where = "/".join(filter(None, (change["policy"], change["rule"])))
        render.say(f"  {change['kind']}  {change['service']} {where}: {change['what']}")
    replayed = found.extra.get("held_out")
    if isinstance(replayed, dict):
        rows = replayed["would_deny"]
        render.say(f"  held out {replayed['day']}: {len(rows)} kinds of requests would have been denied")
        for row in rows:
            what = f"{row['method'] or ''} {row['path'] or ''}".strip()
            render.say(f"    {row['connections']} ×  {row['source']} → {row['destination']}:{row['port']} {what}")  # noqa: RUF001
    for exported in found.extra.get("exported") or ():  # type: ignore[attr-defined]
        render.say(f"  exported for {exported['target']} to {exported['directory']}")
    if found.unattributed:
        render.say(f"  {found.unattributed} connections could not be attributed to identities on both sides")
