"""Approving on the reviewer's own machine: fetch the content, compile and plan it again, show it, then sign.

The server is believed in nothing: content must have the hash that the review names, and the plan is this machine's.
"""

from __future__ import annotations

import datetime as dt
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen import client
from limen.cli import context, render
from mesh.clock import SystemClock
from mesh.problems import Invalid
from policyengine import keyfile
from policyengine.analysis import Plan, plan
from policyengine.review import APPROVAL_LIFETIME, Statement, sign_approval
from policyengine.snapshot import Snapshot, snapshot_from_json

F = TypeVar("F", bound=Callable[..., Any])
PASSPHRASE = "LIMEN_REVIEWER_PASSPHRASE"  # noqa: S105  the name of a variable


def key_option(command: F) -> F:
    """Add `--key`."""
    return click.option(
        "--key",
        type=click.Path(dir_okay=False, path_type=pathlib.Path),
        help="The reviewer's key file; the local installation's by default.",
    )(command)


def has_local_key() -> bool:
    """Whether the local installation has a reviewer's key."""
    return os.path.lexists(context.state() / keyfile.LOCAL_KEY)


def signing_key(file: pathlib.Path | None) -> Ed25519PrivateKey:
    """Read a reviewer's key, asking for its passphrase on a terminal.

    Raises Invalid (LM2407, LM2409).
    """
    path = file or context.state() / keyfile.LOCAL_KEY
    passphrase = os.environ.get(PASSPHRASE)
    if passphrase is None and keyfile.is_encrypted(path) and sys.stdin.isatty():
        passphrase = str(click.prompt(f"passphrase of {path}", hide_input=True, err=True))
    return keyfile.read_key(path, passphrase.encode() if passphrase else None)


def fetch_snapshot(name: str) -> Snapshot:
    """Fetch a snapshot and compile it again here.

    Raises Invalid (LM2401, LM2402) when the answer is not the content that the hash names.
    """
    found = client.call("GET", f"/v1/snapshots/{name}")
    if not isinstance(found, dict):
        raise Invalid("LM2432", reason="the answer holds no snapshot")
    return snapshot_from_json(found.get("snapshot", found), name)


def replan(review: dict[str, Any], now: dt.datetime) -> tuple[Snapshot, Snapshot | None, Plan]:
    """Fetch both snapshots of a review and plan the change here."""
    proposed = fetch_snapshot(str(review["snapshot"]))
    predecessor = review["predecessor"]
    before = None if predecessor is None else fetch_snapshot(str(predecessor))
    return proposed, before, plan(None if before is None else before.policies, proposed.policies, (), now)


def other_changes(before: Snapshot | None, proposed: Snapshot) -> list[str]:
    """What differs beside the policies: it decides who anybody is."""
    names = ("trust_domain", "identity_rules", "federation", "jwt_issuers")
    if before is None:
        return []
    return [name.replace("_", " ") for name in names if getattr(before, name) != getattr(proposed, name)]


def approve_review(
    review_id: str,
    key: Ed25519PrivateKey,
    *,
    show: Callable[[Plan], None],
    confirm: Callable[[], None] = lambda: None,
    lifetime: dt.timedelta = APPROVAL_LIFETIME,
) -> Any:  # noqa: ANN401  JSON
    """Approve a review.

    1. Fetch it, and the content of the snapshot and of its predecessor by their hashes.
    2. Compile and plan on this machine; show the plan.
    3. Sign exactly the two hashes whose content was shown.
    """
    now = SystemClock().now()
    # (1)
    review = client.call("GET", f"/v1/reviews/{review_id}")
    # (2)
    proposed, before, found = replan(review, now)
    show(found)
    for name in other_changes(before, proposed):
        render.say(f"{name} change too: this decides who anybody is")
    confirm()
    # (3)
    statement = Statement(
        trust_domain=proposed.trust_domain,
        snapshot=proposed.hash,
        predecessor=None if before is None else before.hash,
        expires=now + lifetime,
    )
    envelope = sign_approval(statement, key)
    return client.call("POST", f"/v1/reviews/{review_id}/approvals", {"envelope": envelope.to_json()})
