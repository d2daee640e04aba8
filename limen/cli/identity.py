"""`limen identity`: the identities that were issued, and why a process has one or has none."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from limen import client
from limen.cli import authority, context, downstream, render, upstream
from mesh.problems import Invalid, Problem, Severity


@click.group()
def identity() -> None:
    """Show identities and explain them."""


@identity.command("list")
@context.output_option("table", "json")
def list_(output: str) -> None:
    """List the SVIDs that are valid now: not ended, and not revoked, alone or with their authority."""
    found = client.call("GET", "/v1/identities")
    if output == "json":
        render.data(found)
        return
    rows = [
        (row["spiffe_id"], row["kind"], row["rule"], _marks(row), row["node"], row["not_after"], row["serial"])
        for row in found
    ]
    render.table(rows, ("identity", "kind", "rule", "marks", "node", "valid until", "serial"))


@identity.command()
@click.option("--pid", type=click.IntRange(1), required=True, help="A process on this host.")
@click.option(
    "--rules",
    type=click.Path(path_type=pathlib.Path),
    help="Ask a file of identity rules that is not in force, and change nothing.",
)
@context.output_option("table", "json")
def explain(pid: int, rules: pathlib.Path | None, output: str) -> int:
    """Say which rule gives a process its identity, or why none does."""
    attested = _attested(pid)
    facts = attested["facts"]
    found = client.call("POST", "/v1/identities/explain", {"facts": facts}) if rules is None else _tried(rules, facts)
    if output == "json":
        render.data({"pid": pid, **attested, **found})
    else:
        _show(pid, attested, found)
    return 0 if found["spiffe_id"] else 1


def _attested(pid: int) -> dict[str, Any]:
    """Ask the agent for the attested facts of a process, of whom they are, and what could not be found out.

    Raises Problem when the agent refuses or cannot be reached.
    """
    from enforcer import control  # noqa: PLC0415  only this command speaks to the agent

    answer = control.ask(context.state() / "control.sock", {"type": "explain", "pid": pid})
    if answer.get("type") == "failed":
        facts = answer.get("facts")
        raise Problem(str(answer["code"]), **(facts if isinstance(facts, dict) else {}))
    facts = answer["facts"]
    assert isinstance(facts, list)
    sources, missing = answer.get("sources"), answer.get("missing")
    return {
        "facts": [(str(key), str(value)) for key, value in facts],
        "sources": sources if isinstance(sources, dict) else {},
        "missing": missing if isinstance(missing, dict) else None,
    }


def _tried(path: pathlib.Path, facts: list[tuple[str, str]]) -> dict[str, Any]:
    """What a file that is not in force says of facts; its findings go to stderr.

    Raises Invalid LM1219 for one that could never come into force.
    """
    from limen import explanation  # noqa: PLC0415  only this option reads rules
    from mesh.spiffe import TrustDomain  # noqa: PLC0415

    rules, findings = explanation.rules_of(path)
    render.diagnostics(findings)
    errors = sum(item.severity is Severity.ERROR for item in findings)
    if errors:
        raise Invalid("LM1219", path=str(path), reason=f"errors: {errors}, each at its line above")
    domain = TrustDomain.parse(client.call("GET", "/v1/status")["trust_domain"])
    answer = explanation.explained(rules, domain, facts)
    assert isinstance(answer, dict)
    return answer


def _marks(row: dict[str, Any]) -> str:
    """What ought to be seen beside an identity."""
    names = {"admin": "admin", "container_bound": "container-bound"}
    return ", ".join(text for name, text in names.items() if row.get(name))


def _show(pid: int, attested: dict[str, Any], found: dict[str, Any]) -> None:
    render.line(
        f"process {pid}: {found['spiffe_id'] or 'no identity'}" + (f" ({_marks(found)})" if _marks(found) else "")
    )
    sources = attested["sources"]
    render.table(
        [(key, value, sources.get(key, "the host")) for key, value in attested["facts"]], ("fact", "value", "from")
    )
    if attested["missing"] is not None:
        render.line(f"not all could be found out: {attested['missing']['reason']}")
    rows = [(row["rule"], "yes" if row["matched"] else "no", row["reason"]) for row in found["rules"]]
    if rows:
        render.table(rows, ("rule", "matches", "because"))
    else:
        render.line("there are no identity rules: write some, see docs/guides/identities.md")
    if found["code"]:
        render.say(f"{found['code']} {found['reason']}")
        render.say(f"    {found['help']}")


@identity.command()
@click.argument("file", required=False, type=click.Path(path_type=pathlib.Path, dir_okay=False))
@context.output_option("table", "json")
def lint(file: pathlib.Path | None, output: str) -> int:
    """Check a file of identity rules, by default STATE/identities.yaml: every finding; 1 when one is an error."""
    from limen import explanation  # noqa: PLC0415  only this command and `explain --rules` read rules

    path = file or context.state() / "identities.yaml"
    rules, findings = explanation.rules_of(path)
    if output == "json":
        found = [item.to_json() for item in findings]
        render.data({"file": str(path), "rules": len(rules.rules), "findings": found})
    else:
        render.diagnostics(findings)
        if not findings:
            render.line(f"{path}: {len(rules.rules)} rules")
    return 1 if any(item.severity is Severity.ERROR for item in findings) else 0


@identity.command()
@click.argument("serial", metavar="SERIAL|JTI")
@click.option("--log", "folder", type=click.Path(path_type=pathlib.Path), default=None, help="The log, or a copy.")
@click.option("--key", type=click.Path(path_type=pathlib.Path), default=None, help="The log's public key.")
@context.output_option("json", "table")
def prove(*, serial: str, folder: pathlib.Path | None, key: pathlib.Path | None, output: str) -> int:
    """Prove that an SVID was issued here: its record, the way to the signed root, and the checkpoint; 1 when not."""
    from limen.cli import auditissuance  # noqa: PLC0415  only this command reads the log

    return auditissuance.prove_issuance(serial, folder, key, output)


for _command in (
    authority.authorities,
    authority.show,
    authority.issue,
    authority.rotate,
    authority.taint,
    authority.revoke,
):
    identity.add_command(_command)
identity.add_command(upstream.upstream)
identity.add_command(downstream.downstream)
