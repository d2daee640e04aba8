"""`limen policy reach` and `rollout`: who reaches what, through whom, and what a rollout opens in between."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import click

from limen.cli import render
from limen.cli.can import usable_tree
from limen.cli.context import output_option, tree_option
from limen.cli.plan import ACCESS_HEADERS, access_cells, active_policies
from mesh.clock import SystemClock
from mesh.problems import Invalid
from policyengine.atoms import TooLarge
from policyengine.loader import KeptFiles
from policyengine.model import PolicySet, Principal, Principals
from policyengine.reach import Chain, Reached, Way, blast_radius, ways_through, who_reaches
from policyengine.reach import rollout as find_chains
from policyengine.rows import Row


@click.command()
@tree_option("The policy tree.")
@click.option("--to", "service", help="The service that is asked about.")
@click.option("--from", "callers", multiple=True, help="Who calls: as in a rule's `from`. Anybody by default.")
@click.option("--outside", multiple=True, help="Leave these callers out: `--outside group:pci`.")
@click.option("--of", "identity", help="Everything that one identity reaches, through others too: its blast radius.")
@click.option("--direct", is_flag=True, help="With --to: only who reaches it without another service between.")
@output_option("table", "json")
@click.pass_context
def reach(
    ctx: click.Context,
    tree: pathlib.Path,
    service: str | None,
    callers: tuple[str, ...],
    outside: tuple[str, ...],
    identity: str | None,
    output: str,
    *,
    direct: bool,
) -> None:
    """Say who can reach a service (--to), or what an identity can reach (--of), through other services too.

    Exit status 0 when there is a way, 1 when there is none.
    """
    if (service is None) == (identity is None):
        raise click.UsageError("say either --to SERVICE or --of IDENTITY")
    if identity is not None and (callers or outside or direct):
        raise click.UsageError("--from, --outside and --direct go with --to")
    policies, now = usable_tree(tree), SystemClock().now()
    try:
        if identity is not None:
            found = blast_radius(policies, _callers(policies, (identity,)), now)
            _show_reached(identity, found, output)
            ctx.exit(0 if found else 1)
        assert service is not None
        if policies.service_for(service) is None:
            raise Invalid("LM2443", kind="service", name=service)
        left_out = _callers(policies, outside) if outside else None
        who = _callers(policies, callers or ("any",))
        rows = who_reaches(policies, service, who, left_out, now)
        ways = () if direct else ways_through(policies, service, who, left_out, now)
    except TooLarge as err:
        raise Invalid("LM2442") from err
    _show_rows(service, rows, ways, output)
    ctx.exit(0 if rows or ways else 1)


@click.command()
@tree_option("The tree with the change.")
@click.option("--against", default="active", show_default=True, help="The tree that is in force, or `active`.")
@output_option("table", "json")
@click.pass_context
def rollout(ctx: click.Context, tree: pathlib.Path, against: str, output: str) -> None:
    """Say what can be reached while some sidecars have the old version and some the new one, and in neither alone.

    Exit status 1 when there is such a way.
    """
    kept = KeptFiles()
    new = usable_tree(tree, kept)
    old = active_policies() if against == "active" else usable_tree(pathlib.Path(against), kept)
    try:
        chains = find_chains(PolicySet() if old is None else old, new, SystemClock().now())
    except TooLarge as err:
        raise Invalid("LM2442") from err
    _show_chains(chains, output)
    ctx.exit(1 if chains else 0)


def _callers(policies: PolicySet, texts: tuple[str, ...]) -> Principals:
    """Callers by name: `any`, a SPIFFE ID or pattern, `group:NAME`, `service:NAME`, or a service's bare name.

    Raises Invalid LM2443 for what the tree does not define.
    """
    found = []
    for text in texts:
        is_service = ":" not in text and text != "any"
        try:
            found.append(Principal.parse(f"service:{text}" if is_service else text))
        except ValueError as err:
            raise click.BadParameter(f"`{text}`: {err}") from err
    principals = policies.expand(tuple(found))
    if principals.incomplete:
        raise Invalid("LM2443", kind="group or service", name=", ".join(texts))
    return principals


def _show_access(rows: Sequence[Row]) -> None:
    render.table([(*access_cells(row), ", ".join(row.because)) for row in rows], ACCESS_HEADERS)


def _show_rows(service: str, rows: tuple[Row, ...], ways: tuple[Way, ...], output: str) -> None:
    if output == "json":
        render.data(
            {
                "service": service,
                "reachable": bool(rows or ways),
                "access": [row.to_json() for row in rows],
                "through": [way.to_json() for way in ways],
            }
        )
        return
    render.line(f"{service}: {_count(len(rows), 'row')} of direct access" if rows else f"{service}: nobody directly")
    if rows:
        _show_access(rows)
    for way in ways:
        render.line(f"through {' → '.join((*way.via, service))}")
        _show_access(way.access)


def _show_reached(identity: str, found: tuple[Reached, ...], output: str) -> None:
    if output == "json":
        render.data({"identity": identity, "reaches": [reached.to_json() for reached in found]})
        return
    render.line(f"{identity} reaches {_count(len(found), 'service')}")
    for reached in found:
        render.line(f"{' → '.join((*reached.via, reached.service))}")
        _show_access(reached.access)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _show_chains(chains: tuple[Chain, ...], output: str) -> None:
    if output == "json":
        render.data({"safe": not chains, "chains": [chain.to_json() for chain in chains]})
        return
    if not chains:
        render.line("safe: a mix of both versions reaches nothing that neither reaches alone")
    for chain in chains:
        hops = " → ".join(f"{service} ({' or '.join(versions)})" for service, versions in chain.hops)
        render.line(f"{chain.source} → {hops}")
