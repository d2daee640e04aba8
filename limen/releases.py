"""Which release was in force at a moment, and who approved it: from the audit log, with the server's policies.

The log says which snapshot was activated when; the snapshot and its approvals come from the running server or, without
one, from the database in the state directory. A snapshot is named by the hash of its content, and an approval is a
signature over that name: what comes from either place is checked by whoever has the reviewers' keys.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from audit.batches import SERVER
from audit.record import read_record
from mesh.clock import parse_time
from mesh.problems import NotFound, Unavailable

T = TypeVar("T")
Json = Any
_NEEDLE = b'"kind":"snapshot"'
_DATABASE = ("server", "limen.sqlite")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One activation, as the log records it."""

    index: int
    time: dt.datetime
    event: str
    snapshot: str
    review: str
    epoch: int


def releases_in(records: Iterable[tuple[int, bytes]]) -> list[Release]:
    """Every activation that the server recorded, in the log's order."""
    found = []
    for index, data in records:
        if _NEEDLE not in data:
            continue
        row = read_record(data)
        if row["kind"] == "snapshot" and str(row["source"]).startswith(SERVER) and isinstance(row.get("epoch"), int):
            found.append(
                Release(
                    index=index,
                    time=parse_time(str(row["time"])),
                    event=str(row.get("event")),
                    snapshot=str(row.get("snapshot")),
                    review=str(row.get("review")),
                    epoch=int(str(row["epoch"])),
                )
            )
    return found


def in_force(releases: Iterable[Release], at: dt.datetime) -> Release:
    """The release that was in force at a moment.

    Raises NotFound LM6095 when there was none.
    """
    before = [item for item in releases if item.time <= at]
    if not before:
        raise NotFound("LM6095", at=at.isoformat())
    return before[-1]


class Policies:
    """Where snapshots, reviews and reviewers are read: the running server, or the database of one that is not."""

    def __init__(self, state: pathlib.Path) -> None:
        self._state = state

    def snapshot(self, name: str) -> Json:
        """A snapshot's content. Raises NotFound LM2425, Unavailable LM5201 when there is neither."""
        from policyengine.store import get_snapshot  # noqa: PLC0415  a heavy import, for one way alone

        def stored(connection: Any) -> Json:  # noqa: ANN401  SQLAlchemy's
            return {"snapshot": get_snapshot(connection, name).to_json()}

        return self._ask(f"/v1/snapshots/{name}", stored)["snapshot"]

    def reviews(self) -> Json:
        """Every review with its approvals."""
        from policyengine import reviewing, store  # noqa: PLC0415  a heavy import, for one way alone

        def stored(connection: Any) -> Json:  # noqa: ANN401  SQLAlchemy's
            return [reviewing.describe(connection, item) for item in store.list_reviews(connection)]

        return self._ask("/v1/reviews", stored)

    def reviewers(self) -> Json:
        """The reviewer set in force, with the signed chain that led to it."""
        from policyengine import reviewing  # noqa: PLC0415  a heavy import, for one way alone

        return self._ask("/v1/reviewers", reviewing.describe_reviewers)

    def _ask(self, path: str, stored: Callable[[Any], Json]) -> Json:
        from limen import client  # noqa: PLC0415  only what asks a server pays for it

        try:
            return client.Client(self._state / "server.sock").call("GET", path)
        except Unavailable:
            file = self._state.joinpath(*_DATABASE)
            if not file.is_file():
                raise
        import sqlalchemy as sa  # noqa: PLC0415  a heavy import, for this way alone

        engine = sa.create_engine(f"sqlite:///file:{urllib.parse.quote(str(file))}?mode=ro&uri=true")
        try:
            with engine.connect() as connection:
                return stored(connection)
        finally:
            engine.dispose()


def approvals_of(reviews: Iterable[Json], release: Release) -> list[Json]:
    """Who approved what a release activated: of its own review, or of the review that made the snapshot."""
    own = [item for item in reviews if item["id"] == release.review]
    other = [item for item in reviews if item["snapshot"] == release.snapshot and item not in own]
    return [approval for review in (*own, *other) for approval in review["approvals"]]
