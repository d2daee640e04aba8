"""What a state directory has recorded in its audit log: who got an identity, and which requests were decided.

No server has to run. The newest records are read, so that a long history costs no more than a short one; the log is
not verified here (`limen audit verify`).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import cast

from audit.reader import KEY, Reader, read_key
from audit.record import read_record
from mesh.clock import parse_time
from mesh.flow import Flow, FlowProtocol
from mesh.problems import Invalid, Problem, Unavailable
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine.model import PolicySet, policy_set_from_json

MAX_RECORDS = 500_000
_PROTOCOLS = frozenset({"tcp", "http", "grpc"})
Json = Mapping[str, object]
_DATABASE = ("server", "limen.sqlite")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Identities that were issued, and decisions as the flows that they were about."""

    identities: frozenset[SpiffeId]
    flows: tuple[Flow, ...]


def read_recorded(state: pathlib.Path) -> Recorded | None:
    """Read the newest records of a state directory; None when it has no log that can be read."""
    folder = state / "audit"
    identities: dict[str, SpiffeId | None] = {}
    flows: dict[tuple[object, ...], Flow] = {}
    try:
        reader = Reader(folder, read_key(folder / KEY))
        for _, data in reader.records(max(0, reader.size - MAX_RECORDS)):
            if b'"kind":"issuance"' in data:
                text = str(json.loads(data).get("spiffe_id"))
                if text not in identities:
                    identities[text] = _identity(text)
            elif b'"kind":"decision"' in data:
                flow = flow_of(json.loads(data))
                if flow is not None:
                    key = (flow.source, flow.destination, flow.destination_port, flow.protocol, flow.method, flow.path)
                    flows[key] = flow
    except (Problem, ValueError, OSError):
        return None
    known = frozenset(found for found in identities.values() if found is not None)
    return Recorded(identities=known, flows=tuple(flows.values()))


def flow_of(row: Json) -> Flow | None:
    """The flow that a decision record is about.

    None where it lacks a side, as a refused handshake does, and for what never left its own host.
    """
    if row.get("direction") == "outbound":
        return None
    source, destination, port, protocol = (row.get(name) for name in ("caller", "destination", "port", "protocol"))
    if not isinstance(source, str) or not isinstance(destination, str) or type(port) is not int:
        return None
    if protocol not in _PROTOCOLS:
        return None
    method, path, peer = row.get("method"), row.get("path"), row.get("peer_ip")
    return Flow(
        start=parse_time(str(row.get("time"))),
        source=source,
        destination=destination,
        destination_port=port,
        protocol=cast("FlowProtocol", protocol),  # membership was checked above
        source_ip=peer if isinstance(peer, str) else None,
        method=method if isinstance(method, str) else None,
        path=path if isinstance(path, str) else None,
    )


def find_decision(state: pathlib.Path, identifier: str) -> Json:
    """The record of a decision.

    Raises Invalid LM6053 or LM6020 without a log, NotFound LM6038 when no record has the id, Invalid LM2205 when it is
    the record of something else.
    """
    folder = state / "audit"
    _, data = Reader(folder, read_key(folder / KEY)).find(identifier)
    row = read_record(data)
    if row["kind"] != "decision":
        raise Invalid("LM2205", id=identifier, kind=row["kind"])
    return row


def snapshot_policies(state: pathlib.Path, name: str) -> PolicySet:
    """The policies of a snapshot, from the running server or, without one, from the database in the state directory.

    Raises NotFound LM2425, Invalid LM2402, Unavailable LM5201 when there is neither.
    """
    from limen import client  # noqa: PLC0415  only what asks a server pays for it

    try:
        found = client.call("GET", f"/v1/snapshots/{name}")
    except Unavailable:
        file = state.joinpath(*_DATABASE)
        if not file.is_file():
            raise
        return _stored(file, name)
    return policy_set_from_json(found["snapshot"]["policies"])


def _stored(file: pathlib.Path, name: str) -> PolicySet:
    """The policies of a snapshot as a server that is not running keeps them; nothing is written."""
    import sqlalchemy as sa  # noqa: PLC0415  a heavy import, for this way alone

    from policyengine.store import get_snapshot  # noqa: PLC0415

    engine = sa.create_engine(f"sqlite:///file:{urllib.parse.quote(str(file))}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            return get_snapshot(connection, name).policies
    finally:
        engine.dispose()


def _identity(text: str) -> SpiffeId | None:
    try:
        return SpiffeId.parse(text)
    except SpiffeIdError:
        return None
