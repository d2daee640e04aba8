"""`limen reviewer`: keys of people who review, and the first reviewer set."""

from __future__ import annotations

import getpass
import json
import os
import pathlib
import secrets

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen.cli import context, render
from limen.cli.signing import PASSPHRASE
from mesh.problems import Conflict, Invalid
from mesh.spiffe import SpiffeIdError, TrustDomain
from policyengine import dsse, keyfile
from policyengine.reviewers import Reviewer, ReviewerSet, reviewer_from_json


@click.group()
def reviewer() -> None:
    """Make reviewer keys."""


@reviewer.command()
@click.option("--name", default=None, help="Your name in the reviewer set; your login by default.")
@click.option("--team", "teams", multiple=True, help="An owner you answer for; `*` for all. May be repeated.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The key file to make; never overwritten."
)
@click.option("--encrypt", is_flag=True, help=f"Ask for a passphrase, unless {PASSPHRASE} holds one.")
@context.output_option("table", "json")
def init(name: str | None, teams: tuple[str, ...], out: pathlib.Path | None, output: str, *, encrypt: bool) -> None:
    """Make a key, and beside it FILE.pub.json, which is for everybody."""
    path = out or context.state() / keyfile.LOCAL_KEY
    passphrase = os.environ.get(PASSPHRASE)
    if not passphrase and encrypt:
        passphrase = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True)
    key = Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(32))
    found = Reviewer(name=name or getpass.getuser(), public_key=dsse.public_bytes(key), teams=teams)
    if out is None:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    keyfile.write_key(path, key, passphrase.encode() if passphrase else None)
    public = path.with_name(path.name + ".pub.json")
    _write_new(public, json.dumps(found.to_json()) + "\n")
    if output == "json":
        render.data({"name": found.name, "key": found.key_id, "file": str(path), "public": str(public)})
    else:
        render.line(f"{found.key_id}  {path}")
        render.say(f"public half in {public}")
    if not passphrase:
        render.say(f"the key is not encrypted: set {PASSPHRASE} or use --encrypt for one that is")


@reviewer.command("set")
@click.option(
    "--member",
    "members",
    multiple=True,
    required=True,
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="A reviewer's FILE.pub.json. May be repeated.",
)
@click.option("--threshold", type=int, default=1, show_default=True, help="How many approvals a release needs.")
@click.option("--trust-domain", required=True, help="The trust domain that they review for.")
@click.option(
    "--recovery",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="The FILE.pub.json of the recovery key, which is kept offline.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The file to make.")
def make_set(
    members: tuple[pathlib.Path, ...],
    threshold: int,
    trust_domain: str,
    recovery: pathlib.Path | None,
    out: pathlib.Path,
) -> None:
    """Make the first reviewer set, for `limen server --reviewers FILE`."""
    try:
        domain = TrustDomain.parse(trust_domain)
    except SpiffeIdError as err:
        raise Invalid("LM2403", reason=str(err)) from err
    found = ReviewerSet(
        trust_domain=domain,
        version=1,
        threshold=threshold,
        reviewers=tuple(_read_member(file) for file in members),
        recovery_key=None if recovery is None else _read_member(recovery).public_key,
    )
    _write_new(out, json.dumps(found.to_json()) + "\n")
    render.line(f"{found.hash}  {out}")


def _read_member(file: pathlib.Path) -> Reviewer:
    try:
        return reviewer_from_json(dsse.strict_json(file.read_bytes(), "LM2403"))
    except OSError as err:
        raise Invalid("LM2403", reason=f"`{file}`: {err.strerror}") from err


def _write_new(path: pathlib.Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as err:
        raise Conflict("LM2408", file=str(path)) from err
    except OSError as err:
        raise Invalid("LM2407", file=str(path), reason=err.strerror or str(err)) from err
