"""`limen audit reach`: who could reach a service at a moment, and who approved it."""

from __future__ import annotations

import datetime as dt
import pathlib

import click

from audit.reader import Reader
from limen.cli import context, render
from limen.cli.auditlog import log_options, moment, open_log
from limen.releases import Policies, Release, approvals_of, in_force, releases_in
from mesh.clock import format_time
from mesh.problems import Invalid


@click.command()
@click.argument("service")
@click.option("--at", required=True, help="The moment (RFC 3339).")
@log_options
@context.output_option("table", "json")
def reach(*, service: str, at: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> int:
    """Say who could reach SERVICE at a moment, by which rules, and who approved them.

    Exit status 1 when nobody could.
    """
    from limen.cli.plan import ACCESS_HEADERS, access_cells  # noqa: PLC0415  the policy engine is heavy
    from policyengine.atoms import TooLarge  # noqa: PLC0415
    from policyengine.model import Principal, policy_set_from_json  # noqa: PLC0415
    from policyengine.reach import who_reaches  # noqa: PLC0415

    when = moment("--at", at)
    assert when is not None
    release = release_at(when, folder, key)
    source = Policies(context.state())
    policies = policy_set_from_json(source.snapshot(release.snapshot)["policies"])
    if policies.service_for(service) is None:
        raise Invalid("LM2443", kind="service", name=service)
    try:
        rows = who_reaches(policies, service, policies.expand((Principal.parse("any"),)), None, when)
    except TooLarge as err:
        raise Invalid("LM2442") from err
    approvals = approvals_of(source.reviews(), release)
    if output == "json":
        said = {"snapshot": release.snapshot, "epoch": release.epoch, "activated": format_time(release.time)}
        by = [{name: item[name] for name in ("name", "key", "time")} for item in approvals]
        access = [row.to_json() for row in rows]
        render.data({"service": service, "at": format_time(when), **said, "approvals": by, "access": access})
        return 0 if rows else 1
    render.line(f"{service} at {format_time(when)}: release {release.epoch}, {release.snapshot}")
    render.line(f"  activated {format_time(release.time)} (record {release.index})")
    for item in approvals:
        render.line(render.plain(f"  approved  {item['time']} by {item['name']}, key {item['key']}"))
    if rows:
        render.table([(*access_cells(row), ", ".join(row.because)) for row in rows], ACCESS_HEADERS)
    else:
        render.line("  nobody could reach it")
    return 0 if rows else 1


def release_at(when: dt.datetime, folder: pathlib.Path | None, key: pathlib.Path | None) -> Release:
    """The release in force at a moment, as the log says.

    Raises NotFound LM6095, and what opening a log raises.
    """
    where, text = open_log(folder, key)
    return in_force(releases_in(Reader(where, text).records()), when)
