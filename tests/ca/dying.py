"""Does one change to the authorities of a state, killed by SIGKILL before its Nth statement to the database.

Each run is a process of its own, forked, on a copy of the state. Prints one JSON line a run. Usage:
dying.py STATE WORK, where WORK names what is done: see `WORKS`.
"""

import datetime as dt
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable

import sqlalchemy as sa

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from ca.authority import Authority, open_authority
from ca.keys import KeyAlgorithm, generate
from ca.rotation import AuthorityState, Kind, find
from ca.upstream.chain import build_csr
from mesh.database import open_database, sqlite_url
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DOMAIN = TrustDomain("corp.test")
WRAPPING = WrappingKey(b"w" * 32, beside_state=False)
NODE = "downstream-eu"


def begin(path: pathlib.Path) -> Authority:
    return open_authority(open_database(sqlite_url(path)), WRAPPING, trust_domain=DOMAIN, now=NOW)


def rotate(authority: Authority, kind: Kind) -> None:
    """As a server does it that was restarted: what is prepared already is activated."""
    made = authority.succession.prepare(kind, NOW, actor="ada", reason="drill")
    authority.succession.activate(made.id, NOW, actor="ada", reason="drill")


def leave(verb: str, kind: Kind) -> Callable[[Authority], None]:
    def work(authority: Authority) -> None:
        found = [*find(authority.slots, kind, AuthorityState.OLD), *find(authority.slots, kind, AuthorityState.TAINTED)]
        for slot in found:
            if verb == "revoke" or slot.state is AuthorityState.OLD:
                getattr(authority.succession, verb)(slot.id, NOW, actor="ada", reason="drill")

    return work


def give(authority: Authority) -> None:
    key = generate(KeyAlgorithm.P256)
    authority.downstreams.sign(NODE, build_csr(key, DOMAIN), NOW)


WORKS: dict[str, Callable[[Authority], None]] = {
    "rotate-issuing": lambda authority: rotate(authority, Kind.ISSUING),
    "rotate-root": lambda authority: rotate(authority, Kind.ROOT),
    "rotate-jwt": lambda authority: rotate(authority, Kind.JWT),
    "roll-back": lambda authority: (
        authority.succession.roll_back(NOW, Kind.ISSUING, actor="n", reason="rejected") and None
    ),
    "taint-root": leave("taint", Kind.ROOT),
    "revoke-root": leave("revoke", Kind.ROOT),
    "revoke-issuing": leave("revoke", Kind.ISSUING),
    "give-downstream": give,
    "remove-downstream": lambda authority: authority.downstreams.remove("eu", NOW, actor="ada", reason="gone") and None,
}


def die_before(engine: sa.Engine, number: int) -> None:
    """Kill this process before its Nth statement or commit from now on."""
    left = [number]

    def tick(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(engine, "before_cursor_execute", tick)
    sa.event.listen(engine, "commit", tick)


def main(state: pathlib.Path, work: str) -> None:
    number = 0
    while True:
        copy = state.with_name(f"{work}-{number}.db")
        for path in state.parent.glob(state.name + "*"):
            shutil.copy(path, copy.with_name(copy.name + path.name.removeprefix(state.name)))
        child = os.fork()
        if child == 0:
            authority = begin(copy)
            die_before(authority._engine, number)
            WORKS[work](authority)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"path": str(copy), "killed": os.WIFSIGNALED(status)}) + "\n")
        if not os.WIFSIGNALED(status):
            sys.exit(status)
        number += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
