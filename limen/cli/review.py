"""`limen review`: propose a change, look at it, approve it, shadow it, activate it, take it back."""

from __future__ import annotations

import pathlib
from typing import Any

import click

from limen import client
from limen.cli import render
from limen.cli.context import output_option, tree_option
from limen.cli.signing import approve_review, key_option, other_changes, replan, signing_key
from mesh.clock import SystemClock
from policyengine import dsse


@click.group()
def review() -> None:
    """Propose, approve and activate changes."""


@review.command()
@tree_option("The tree to propose.")
@click.option("--note", default="", help="Why; kept with the review.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Your key file: you propose, so you will not be among the approvers.",
)
@output_option("table", "json")
def propose(tree: pathlib.Path, note: str, key: pathlib.Path | None, output: str) -> None:
    """Propose a policy tree as a change to what is active."""
    from limen.cli.can import usable_tree  # noqa: PLC0415  only this verb reads a tree
    from limen.cli.plan import active_hash  # noqa: PLC0415

    policies = usable_tree(tree)
    proposer = None if key is None else dsse.key_id(dsse.public_bytes(signing_key(key)))
    body = {"policies": policies.to_json(), "proposer": proposer, "predecessor": active_hash(), "note": note}
    _show(client.call("POST", "/v1/reviews", body), output, "look at it with `limen review show {id}`")


@review.command("list")
@output_option("table", "json")
def list_reviews(output: str) -> None:
    """List reviews, newest first."""
    found = client.call("GET", "/v1/reviews")
    if output == "json":
        render.data(found)
        return
    rows = [
        (row["id"], row["state"], f"{len(row['approvals'])}/{row['threshold']}", row["created"], row["note"])
        for row in found
    ]
    render.table(rows, ("id", "state", "approvals", "created", "note"))


@review.command()
@click.argument("review_id", metavar="ID")
@output_option("table", "json", "md")
def show(review_id: str, output: str) -> None:
    """Show a review and, computed here, what it changes."""
    from limen.cli import plan  # noqa: PLC0415

    found = client.call("GET", f"/v1/reviews/{review_id}")
    proposed, before, planned = replan(found, SystemClock().now())
    others = other_changes(before, proposed)
    if output == "json":
        render.data({**found, "plan": planned.to_json(), "other_changes": others})
        return
    for name in ("id", "state", "snapshot", "predecessor", "note"):
        render.line(f"{name:<12}{found[name] or '-'}")
    approvers = ", ".join(str(row["name"]) for row in found["approvals"]) or "nobody"
    render.line(f"{'approved by':<12}{approvers} ({len(found['approvals'])} of {found['threshold']})")
    for owner, services in found["owners"].items():
        render.line(f"{'needs owner':<12}{owner} for {', '.join(services)}")
    for name in others:
        render.line(f"{'changes':<12}{name}: this decides who anybody is")
    plan.show(planned, output)


@review.command()
@click.argument("review_id", metavar="ID")
@key_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option("table", "json")
def approve(review_id: str, key: pathlib.Path | None, output: str, *, yes: bool) -> None:
    """Plan a review again on this machine, and sign it.

    What is signed is the content that was fetched, compiled and shown, by its hash.
    """
    from limen.cli import plan  # noqa: PLC0415

    private = signing_key(key)

    def confirm() -> None:
        if not yes:
            click.confirm("approve this?", abort=True, err=True)

    def present(found: Any) -> None:  # noqa: ANN401  a Plan; the name is imported with the plan
        if output == "json" or yes:
            plan.show_short(found)
        else:
            plan.show(found, "table")

    _show(approve_review(review_id, private, show=present, confirm=confirm), output, "")


def _move(review_id: str, event: str, output: str, hint: str = "") -> None:
    client.call("POST", f"/v1/reviews/{review_id}/{event}", {})
    _show(client.call("GET", f"/v1/reviews/{review_id}"), output, hint)


@review.command()
@click.argument("review_id", metavar="ID")
@output_option("table", "json")
def reject(review_id: str, output: str) -> None:
    """Reject an open review for good."""
    _move(review_id, "reject", output)


@review.command()
@click.argument("review_id", metavar="ID")
@output_option("table", "json")
def shadow(review_id: str, output: str) -> None:
    """Decide an approved change beside what is active, and only record it."""
    _move(review_id, "shadow", output, "make it effective with `limen review activate {id}`")


@review.command()
@click.argument("review_id", metavar="ID")
@output_option("table", "json")
def activate(review_id: str, output: str) -> None:
    """Make an approved change effective.

    Exit status 4 when the approvals do not suffice.
    """
    _move(review_id, "activate", output, "undo with `limen review rollback {id}`")


@review.command()
@click.argument("review_id", metavar="ID")
@output_option("table", "json")
def rollback(review_id: str, output: str) -> None:
    """Go back to the release before the active one; its own approvals authorise that."""
    _move(review_id, "rollback", output)


def _show(found: Any, output: str, hint: str) -> None:  # noqa: ANN401  JSON
    if output == "json":
        render.data(found)
        return
    approvals = f"{len(found['approvals'])} of {found['threshold']} approvals"
    render.line(f"{found['id']}  {found['state']}  {approvals}  {found['snapshot']}")
    if hint:
        render.say(hint.format(id=found["id"]))
