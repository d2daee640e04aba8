"""`limen policy compile`: what a tree comes to when it is published, without a server."""

from __future__ import annotations

import pathlib

import click

from limen.cli import render
from limen.cli.can import usable_tree
from limen.cli.context import output_option, tree_option
from limen.decisions import name_of
from limen.files import replace_file
from mesh import canonicaljson
from mesh.problems import Invalid
from policyengine import tiers
from policyengine.decide import Index
from policyengine.lint import needs_envoy
from policyengine.statistics import ServiceStatistics, statistics_of


@click.command("compile")
@tree_option()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Write what the tree contributes to a snapshot: policies and port tiers, as canonical JSON.",
)
@output_option("table", "json")
def compile_(tree: pathlib.Path, out: pathlib.Path | None, output: str) -> None:
    """Compile a policy tree as `publish` would, and say what comes of it for each service.

    Nothing is sent anywhere. Exit status 2 with all findings when the tree has errors; then nothing is written.
    """
    policies = usable_tree(tree)
    name = name_of(policies)
    Index(policies, name)  # what enforcers build: a tree that gets past it can be enforced
    chosen = tiers.to_json(tiers.choose_tiers(policies))
    content = canonicaljson.dumps({"policies": policies.to_json(), "tiers": chosen})
    found = statistics_of(policies)
    render.diagnostics(needs_envoy(policies))
    if out is not None:
        try:
            replace_file(out, content, mode=0o644)
        except OSError as err:
            raise Invalid("LM2713", file=str(out), reason=err.strerror or "it cannot be written") from err
    if output == "json":
        rows = [item.to_json() for item in found]
        render.data({"policies": name, "bytes": len(content), "out": str(out) if out else None, "services": rows})
        return
    headers = ("service", "mode", "ports", "guardrail", "app", "baseline", "exact", "below", "any", "conditional")
    render.table([_cells(item) for item in found], headers)
    render.say(f"{name}" + (f", written to {out}" if out else ""))


def _cells(item: ServiceStatistics) -> tuple[object, ...]:
    ports = " ".join(f"{port}:{tier}" for port, tier in item.ports.items())
    return (
        item.service, item.mode, ports, *item.rules.values(), item.exact, item.below, item.any_caller, item.conditional,
    )  # fmt: skip
