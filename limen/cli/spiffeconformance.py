"""`limen spiffe-conformance`: check anybody's Workload API against the SPIFFE standards."""

from __future__ import annotations

import dataclasses
import os

import click

from limen.cli import context, render
from limen.endpoint import VARIABLE, uri_of
from mesh.problems import Unavailable


@click.command()
@click.option(
    "--socket",
    default=None,
    help="The Workload API, unix:///PATH or tcp://IP:PORT; default $SPIFFE_ENDPOINT_SOCKET, then this installation's.",
)
@context.output_option("table", "json")
def conformance(socket: str | None, output: str) -> int:
    """Check a Workload API from outside, as a workload sees it: any implementation's.

    Ends with 1 when a MUST does not hold. Give the caller an identity first: what is not given cannot be checked.
    """
    from limen.conformance import probe, rules  # noqa: PLC0415  grpc and cryptography are heavy
    from mesh.clock import SystemClock  # noqa: PLC0415

    address = socket or os.environ.get(VARIABLE) or uri_of(context.state() / "agent.sock")
    asked = probe.Probe(address)
    try:
        evidence = probe.gather(asked)
        if evidence.x509.code == evidence.x509_bundles.code == "UNAVAILABLE":
            raise Unavailable("LM1041", socket=address, reason=evidence.x509.details)
        rows = rules.run(asked, evidence, SystemClock())
    finally:
        asked.close()
    failed = [row for row in rows if row.result is rules.Result.FAIL]
    broken = [row for row in failed if row.level == "M"]
    if output == "json":
        render.data({"socket": address, "conforms": not broken, "rows": [dataclasses.asdict(row) for row in rows]})
    else:
        marks = {rules.Result.PASS: "√", rules.Result.NOT_APPLICABLE: "-"}
        shown = [(marks.get(row.result, "×"), row.id, row.level, row.statement, row.seen) for row in rows]  # noqa: RUF001
        render.table(shown, ("", "id", "level", "statement", "seen"))
        passed = sum(row.result is rules.Result.PASS for row in rows)
        said = f"{passed} passed, {len(broken)} MUST and {len(failed) - len(broken)} SHOULD failed"
        render.line(f"{said}, {len(rows) - passed - len(failed)} not applicable")
    return 1 if broken else 0
