"""Which records a question means: by identity, service, code, time, decision, reviewer and kind. Pure.

A question looks at one record at a time and keeps none, so that a search through a log of any size needs no more memory
than its longest record. Most records are told apart by their bytes: only what may match is parsed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping

from audit.record import read_record
from mesh.clock import parse_time
from mesh.problems import Invalid, Problem
from mesh.spiffe import SpiffeId, SpiffeIdError, SpiffePattern

# the fields of a record that name who asks, who is asked, and who got an identity
IDENTITIES = ("caller", "destination", "spiffe_id", "identity")
_REVIEWERS = ("reviewers", "key_ids")
# what stands in canonical JSON as it is
_PLAIN = re.compile(r"[A-Za-z0-9 !#-.:-@\[\]^-`{-~]+\Z")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question: what is given must ALL hold; nothing given is every record.

    ``identity`` is a SPIFFE ID or a pattern of them, ``service`` a service's name or its SPIFFE ID, ``reviewer`` a
    reviewer's name or key id. ``since`` is the first moment, ``until`` the first one after.
    """

    identity: SpiffePattern | None = None
    service: str | None = None
    code: str | None = None
    decision: str | None = None
    reviewer: str | None = None
    kind: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    def needles(self) -> tuple[bytes, ...]:
        """Byte strings that EVERY matching record's canonical JSON has."""
        named = [(name, getattr(self, name)) for name in ("code", "decision", "kind")]
        texts = [self.service, self.reviewer, None if self.identity is None else str(self.identity.id)]
        found = [f'"{name}":"{value}"' for name, value in named if value is not None and _PLAIN.match(value)]
        found += [text for text in texts if text is not None and _PLAIN.match(text)]
        return tuple(item.encode() for item in found)

    def matches(self, row: Mapping[str, object]) -> bool:
        """Whether a record is meant.

        1. Kind, code and decision are exactly those.
        2. ANY of the record's identities is the one, or in the pattern.
        3. The service is the one called: by its name, or by the SPIFFE ID, or that ID's last segment.
        4. The reviewer is among those whose approvals the record names.
        5. The time is in [since, until).
        """
        # (1)
        if any(
            wanted is not None and row.get(name) != wanted
            for name, wanted in (("kind", self.kind), ("code", self.code), ("decision", self.decision))
        ):
            return False
        # (2)
        if self.identity is not None and not any(_is_in(self.identity, row.get(name)) for name in IDENTITIES):
            return False
        # (3)
        if self.service is not None and not is_about(row, self.service):
            return False
        # (4)
        if self.reviewer is not None and not any(_has(row.get(name), self.reviewer) for name in _REVIEWERS):
            return False
        # (5)
        if self.since is None and self.until is None:
            return True
        moment = parse_time(str(row["time"]))
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


def is_about(row: Mapping[str, object], service: str) -> bool:
    """Whether a record is about a called service: its name, its SPIFFE ID, or that ID's last segment."""
    called = row.get("destination")
    if row.get("service") == service or called == service:
        return True
    return isinstance(called, str) and called.rpartition("/")[2] == service


def parse_identity(text: str) -> SpiffePattern:
    """Read what `--identity` takes.

    Raises Invalid LM6059.
    """
    try:
        return SpiffePattern.parse(text)
    except SpiffeIdError as err:
        raise Invalid("LM6059", text=text, reason=str(err)) from err


def search(records: Iterable[tuple[int, bytes]], query: Query) -> Iterator[tuple[int, dict[str, object]]]:
    """The records that a question means, parsed, with their indexes, in the log's order.

    Raises Invalid LM6035 for a record that may be meant and cannot be read.
    """
    needles = query.needles()
    for index, data in records:
        if not all(needle in data for needle in needles):
            continue
        try:
            row = read_record(data)
            is_meant = query.matches(row)
        except Problem as problem:
            raise Invalid("LM6035", index=index, reason=problem.message) from problem
        except ValueError as err:
            raise Invalid("LM6035", index=index, reason="its time is no moment") from err
        if is_meant:
            yield index, row


def _is_in(pattern: SpiffePattern, value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return pattern.matches(SpiffeId.parse(value))
    except SpiffeIdError:
        return False


def _has(values: object, wanted: str) -> bool:
    return isinstance(values, list) and wanted in values
