"""A history between two runs: one JSON object a line, a head and then a kind each, so that a day more is a day's work.

It remembers which inputs it holds, so that none counts twice; how often somebody looked, which widens the bounds; what
the last proposal allowed, and when a rule of a service was taken back. This module reads and writes no files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

from learner.history import BEYOND, MAX_SAMPLES, History, Key, Kind, Uses

FORMAT = "limen-history/1"
_NEVER = float("-inf")


class NotAHistory(ValueError):  # noqa: N818  the caller's Problem says what to do
    """A text that is no history."""


@dataclasses.dataclass(slots=True)
class Memory:
    """A history with what is known about those who looked at it."""

    history: History
    inputs: list[str] = dataclasses.field(default_factory=list)
    looks: int = 0
    restarts: dict[str, float] = dataclasses.field(default_factory=dict)
    allowed: set[Key] = dataclasses.field(default_factory=set)
    coverage: list[dict[str, object]] = dataclasses.field(default_factory=list)

    def looked(self, allowed: set[Key]) -> list[str]:
        """Note a proposal; the services of which it takes something back, whose count begins anew from here."""
        gone = sorted({key[1] for key in self.allowed - allowed if key in self.history.kinds})
        self.restarts.update(dict.fromkeys(gone, self.history.last))
        self.allowed = allowed
        self.looks += 1
        return gone


def write(memory: Memory) -> Iterator[str]:
    """The lines of a history."""
    history = memory.history
    yield _line(
        {
            "format": FORMAT,
            "first": history.first,
            "last": history.last,
            "flows": history.flows,
            "unattributed": history.unattributed,
            "inputs": memory.inputs,
            "looks": memory.looks,
            "restarts": memory.restarts,
            "coverage": memory.coverage,
        }
    )
    for key, kind in history.kinds.items():
        yield _line(kind_to_row(kind, is_allowed=key in memory.allowed))


def kind_to_row(kind: Kind, *, is_allowed: bool, has_sessions: bool = True) -> list[object]:
    """A kind as JSON, with its sessions or without."""
    sessions = kind.sessions if has_sessions else {}
    return [
        *kind.key, kind.path, kind.has_source, kind.has_destination, kind.flows, kind.connections, kind.answered,
        kind.good, kind.failed, kind.denied,
        [_finite(found) for found in (
            kind.first, kind.last, kind.first_good, kind.last_good, kind.open_start, kind.open_end,
        )],
        list(sessions), list(sessions.values()),
        {
            name: [
                uses.good, uses.failed, uses.turns, uses.first, _finite(uses.first_good), uses.last,
                sorted(uses.tried),
            ]
            for name, uses in kind.replicas.items()
        },
        sorted(kind.sensors), [sorted(found) for found in kind.values], kind.examples, kind.decisions,
        kind.gaps, is_allowed,
    ]  # fmt: skip


def read(lines: Iterable[str]) -> Memory:
    """A history from its lines.

    Raises NotAHistory.
    """
    rows = iter(lines)
    try:
        head = json.loads(next(rows))
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise NotAHistory("the first line does not say so")
        memory = Memory(
            history=History(),
            inputs=[str(name) for name in head["inputs"]],
            looks=int(head["looks"]),
            restarts={str(name): float(at) for name, at in head["restarts"].items()},
            coverage=list(head["coverage"]),
        )
        history = memory.history
        history.first, history.last = float(head["first"]), float(head["last"])
        history.flows, history.unattributed = int(head["flows"]), int(head["unattributed"])
        for line in rows:
            kind, is_allowed = kind_from_row(json.loads(line))
            history.restore(kind)
            if is_allowed:
                memory.allowed.add(kind.key)
    except NotAHistory:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration, RecursionError) as err:
        raise NotAHistory(f"a line is damaged ({type(err).__name__})") from err
    return memory


def kind_from_row(row: list[Any]) -> tuple[Kind, bool]:
    """A kind of `kind_to_row`, and whether a rule allows it.

    Raises ValueError, KeyError, TypeError, IndexError or AttributeError for a row that is none.
    """
    (
        source, destination, port, protocol, method, shape, version, path, has_source, has_destination, flows,
        connections, answered, good, failed, denied, times, minutes, numbers, replicas, sensors, values, examples,
        decisions, gaps, is_allowed,
    ) = row  # fmt: skip
    key: Key = (source, destination, port, protocol, method, shape, version)
    kind = Kind(key, path, has_source=has_source, has_destination=has_destination)
    kind.flows, kind.connections, kind.answered = flows, connections, answered
    kind.good, kind.failed, kind.denied = good, failed, denied
    never = (float("inf"), _NEVER, float("inf"), _NEVER, _NEVER, _NEVER)
    (kind.first, kind.last, kind.first_good, kind.last_good, kind.open_start, kind.open_end) = (
        absent if found is None else float(found) for found, absent in zip(times, never, strict=True)
    )
    kind.sessions = dict(zip(minutes, numbers, strict=True))
    kind.active = {minute // 1440 for minute in minutes}
    for name, (uses_good, uses_failed, turns, first, first_good, last, tried) in replicas.items():
        uses = kind.replicas[name] = Uses()
        uses.good, uses.failed, uses.turns, uses.first, uses.last = uses_good, uses_failed, turns, first, last
        uses.first_good = float("inf") if first_good is None else first_good
        uses.tried = set(tried)
    kind.sensors, kind.values = set(sensors), [set(found) for found in values]
    kind.examples, kind.decisions, kind.gaps = examples, decisions, gaps
    is_full = bool(examples) and all(len(found) >= MAX_SAMPLES for found in kind.values)
    kind.wants = kind.shape not in (BEYOND, "") and not is_full
    return kind, bool(is_allowed)


def _finite(value: float) -> float | None:
    return None if value in (float("inf"), _NEVER) else value


def _line(row: object) -> str:
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)
