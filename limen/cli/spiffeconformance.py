"""`limen spiffe-conformance`: check anybody's Workload API against the SPIFFE standards."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from limen.cli import context, render
from limen.endpoint import VARIABLE, uri_of
from mesh.problems import Forbidden, Unavailable

if TYPE_CHECKING:
    from limen.conformance.row import Row

_MARKS = {"pass": "√", "fail": "×", "n/a": "-"}  # noqa: RUF001  the field's check marks


@click.command()
@click.option(
    "--socket",
    default=None,
    help="The Workload API, unix:///PATH or tcp://IP:PORT; default $SPIFFE_ENDPOINT_SOCKET, then this installation's.",
)
@context.output_option("table", "json")
def conformance(socket: str | None, output: str) -> int:
    """Check a Workload API from outside, as a workload sees it: any implementation's.

    Ends with 1 when a MUST does not hold, and with 4 when the caller has no identity there: what is not given cannot
    be checked.
    """
    from limen.conformance import probe, rules  # noqa: PLC0415  grpc and cryptography are heavy
    from mesh.clock import SystemClock  # noqa: PLC0415

    address = socket or os.environ.get(VARIABLE) or uri_of(context.state() / "agent.sock")
    asked = probe.Probe(address)
    try:
        evidence = probe.gather(asked)
        if evidence.x509.code == evidence.x509_bundles.code == "UNAVAILABLE":
            raise Unavailable("LM1041", socket=address, reason=evidence.x509.details)
        rows = rules.run(asked, evidence, SystemClock().now())
    finally:
        asked.close()
    broken = [item for item in rows if item.result is rules.Result.FAIL and item.level == "M"]
    counts = {result.value: sum(item.result is result for item in rows) for result in rules.Result}
    if output == "json":
        found = [dataclasses.asdict(item) for item in rows]
        render.data({"socket": address, "conforms": not broken, "counts": counts, "rows": found})
    else:
        _show(rows)
        failed = f"{len(broken)} MUST and {counts['fail'] - len(broken)} SHOULD failed"
        render.line(f"{counts['pass']} passed, {failed}, {counts['n/a']} not applicable")
    if broken:
        return 1
    if evidence.x509.code == "PERMISSION_DENIED":
        raise Forbidden("LM1042", socket=address, count=counts["n/a"])
    return 0


def _show(rows: Sequence[Row]) -> None:
    """Write the statements; under one that failed, what was seen."""
    for item in rows:
        render.line(f"{_MARKS[item.result]} {item.id:<5} {item.level}  {item.statement}")
        if item.result == "fail":
            render.line(f"            seen: {item.seen}")
