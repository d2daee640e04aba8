"""`limen learn drift`: where policies and traffic have parted, and the change that would bring them together."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from learner.drift import UNUSED_AFTER_DAYS, Drift, New, Old, find_drift
from learner.judge import Judge
from learner.propose import learn as learn_from
from learner.risk import Watch
from limen import client
from limen.cli import context, render
from limen.cli.learninput import read_traffic, remember, schedules_of, traffic_options
from limen.cli.learntree import policies_of, revision_of, write_tree
from mesh.problems import Invalid

F = TypeVar("F", bound=Callable[..., Any])


def unused_option(command: F) -> F:
    """Add `--unused-after`."""
    return click.option(
        "--unused-after",
        type=click.IntRange(min=1),
        default=UNUSED_AFTER_DAYS,
        show_default=True,
        help="Days of watched silence after which an unused allow is tightened.",
    )(command)


@click.command()
@click.option(
    "--policies",
    "tree",
    type=click.Path(path_type=pathlib.Path),
    help="The tree that is in force, or another one. [default: what is active on the server]",
)
@traffic_options
@unused_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Write the tree as it would follow the traffic, to be planned and reviewed like any change.",
)
@context.output_option("table", "json")
@click.pass_context
def drift(
    ctx: click.Context,
    tree: pathlib.Path | None,
    files: tuple[pathlib.Path, ...],
    form: str,
    workloads: pathlib.Path | None,
    schedules: tuple[pathlib.Path, ...],
    history: pathlib.Path | None,
    unused_after: int,
    out: pathlib.Path | None,
    output: str,
) -> None:
    """Compare policies with traffic: new, vanished and never used access.

    Without `--from`, the traffic is what the server's learner saw. Nothing is applied. Exit status 1 when they have
    parted; 0 when they have not, or when it is too early to say.
    """
    if tree is None and out is not None:
        raise Invalid("LM4036")
    revision = None if tree is None else revision_of(tree)
    policies = client.active_policies()[1] if revision is None else revision.policies
    traffic = read_traffic(files, form, workloads, history)
    declared = schedules_of(schedules)
    lesson = learn_from(traffic.history, Watch(schedules=declared))
    found = find_drift(traffic.history, lesson, Judge(policies), declared, unused_after)
    more: dict[str, object] = {"changes": [], "written": [], "losses": list(traffic.losses)}
    if revision is not None:
        revision.extend(lesson)
        revision.tighten(found.tightenings())
        more["changes"] = [item.to_json() for item in revision.changes]
        if out is not None:
            policies_of(revision.texts)  # a tree that does not load is not written
            more["written"] = write_tree(revision.texts, out, tree)
    remember(traffic.memory, history)
    if output == "json":
        render.data({**found.to_json(), **more})
    else:
        _show(found, traffic.losses, out)
    ctx.exit(1 if found.has_findings else 0)


def _show(found: Drift, losses: tuple[str, ...], out: pathlib.Path | None) -> None:
    for title, news in (("new", found.new), ("suspicious", found.suspicious), ("uncertain", found.uncertain)):
        for item in news:
            render.line(f"{title:<11} {_new(item)}: {item.reason}")
    for title, olds in (
        ("vanished", found.vanished),
        ("never used", found.never_used),
        ("waiting", found.waiting),
    ):
        for old in olds:
            render.line(f"{title:<11} {_old(old)}: {old.reason}")
    if not found.has_findings:
        render.say(f"policies and {found.watched_days:.1f} days of traffic agree")
    for text in losses:
        render.say(f"  {text}")
    if out is not None:
        render.say(f"next: limen policy plan --policies {out} --against active")


def _new(item: New) -> str:
    what = f"{item.method} {item.path}".strip()
    return f"{item.source} → {item.service or item.destination}:{item.port} {what}".rstrip()


def _old(item: Old) -> str:
    due = "tightened now" if item.is_due else f"tightened after {item.tighten_after}"
    paths = f" {', '.join(item.paths)}" if item.paths else ""
    return f"{item.policy}/{item.rule}{paths} ({', '.join(item.sources)} → {item.service}; {due})"
