"""What the verbs of `limen audit` share: the log that is meant, moments, and a record as one line."""

from __future__ import annotations

import base64
import datetime as dt
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from audit.checkpoint import VerifierKey
from audit.reader import KEY, read_key
from audit.record import read_record
from limen.cli import context, render
from mesh.clock import parse_time
from mesh.problems import Invalid, Problem, shortened
from mesh.spiffe import SpiffeId

F = TypeVar("F", bound=Callable[..., Any])


def log_options(command: F) -> F:
    """Add `--log` and `--key`."""
    folder = click.Path(path_type=pathlib.Path)
    command = click.option("--key", type=folder, default=None, help="The log's public key, default LOG/key.pub.")(
        command
    )
    return click.option("--log", "folder", type=folder, default=None, help="The log, default STATE/audit.")(command)


def open_log(folder: pathlib.Path | None, key: pathlib.Path | None) -> tuple[pathlib.Path, str]:
    """The log's directory and its public key.

    Raises Invalid LM6054 when there is no log, LM6053 or LM6030 for the key.
    """
    found = folder or context.state() / "audit"
    try:
        (found / "checkpoint").stat()
    except OSError as err:
        # a log without a checkpoint is still one to verify: the directory decides
        if not found.is_dir():
            raise Invalid("LM6054", path=found, reason=err.strerror or str(err)) from err
    if key is None and folder is not None:
        render.say(f"‼ the key is {found / KEY}, of the copy itself: give the one you know with --key")
    return found, read_key(key or found / KEY)


def verifier_key(text: str) -> VerifierKey:
    """A verifier key, by its text or by the file that holds it.

    Raises Invalid LM6053 or LM6030.
    """
    return VerifierKey.parse(text if "+" in text else read_key(pathlib.Path(text)))


def agent_key(text: str) -> tuple[str, bytes]:
    """What `--agent-key` says: an agent's SPIFFE ID and its raw Ed25519 key, in base64 behind the first `=`."""
    name, _, encoded = text.partition("=")
    try:
        SpiffeId.parse(name)
        key = base64.b64decode(encoded, validate=True)
        Ed25519PublicKey.from_public_bytes(key)
    except ValueError as err:
        raise click.BadParameter(f"`{text[:200]}` is not a SPIFFE ID, `=` and an Ed25519 key in base64") from err
    return name, key


def moment(option: str, text: str | None) -> dt.datetime | None:
    """The moment that an option names.

    Raises Invalid LM6050.
    """
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as err:
        raise Invalid("LM6050", option=option, text=text) from err


def readable(index: int, data: bytes) -> dict[str, Any]:
    """A record's fields.

    Raises Invalid LM6035.
    """
    try:
        return dict(read_record(data))
    except Problem as problem:
        raise Invalid("LM6035", index=index, reason=problem.message) from problem


def line_of(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """One record as a line: when, what kind, its id, and its telling fields."""
    if row["kind"] == "decision":
        request = " ".join(str(row[name]) for name in ("method", "path") if row.get(name))
        by = "/".join(str(row[name]) for name in ("policy", "rule") if row.get(name)) or row.get("code", "")
        caller, called = row.get("caller") or "nobody", row.get("destination") or "-"
        what = f"{row.get('decision')}  {caller} → {called}:{row.get('port')}  {request}  by {by}"
    else:
        shown = (
            f"{name}={shortened(value, 100) if isinstance(value, str) else value}"
            for name, value in row.items()
            if name not in {"schema", "id", "time", "kind", "source", "index"}
            and isinstance(value, str | int)
            and value
        )
        what = " ".join(shown)
    return str(row["time"]), render.plain(str(row["kind"])), str(row["id"]), render.plain(" ".join(what.split()))
