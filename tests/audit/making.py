"""Logs and records for the tests of `audit`."""

import datetime as dt
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.journal import ROOM
from audit.log import Log
from audit.record import record, to_bytes

START = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(reversed(range(32))))
ORIGIN = "tests.test/audit"


def make(number: int, **fields: object) -> bytes:
    """Record number so and so, always the same."""
    moment = START + dt.timedelta(seconds=number)
    return to_bytes(
        record("decision", now=moment, random=number.to_bytes(10, "big"), source="t", **({"n": number} | fields))
    )


def id_of(number: int) -> str:
    return str(
        record("x", now=START + dt.timedelta(seconds=number), random=number.to_bytes(10, "big"), source="")["id"]
    )


def open_log(directory: pathlib.Path, room: int = ROOM) -> Log:
    return Log.open(directory, key=KEY, origin=ORIGIN, room=room)


def make_log(directory: pathlib.Path, *batches: int) -> str:
    """A log of batches of these sizes; its public key's text."""
    log = open_log(directory)
    number = 0
    for size in batches:
        log.append([make(index) for index in range(number, number + size)])
        number += size
    log.close()
    return (directory / "key.pub").read_text()
