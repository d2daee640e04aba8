"""Declared schedules: calls that are to come though nobody may have seen them yet, and how far apart they are.

Read are our own rows, CronJob objects of Kubernetes, timers of systemd and crontabs. No statistic of a window can see a
job whose period is longer than the window, so a declared schedule without traffic stays open. This module runs nothing
and reads no clock.
"""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping

from mesh.yamlio import compose_documents

_CRON = re.compile(r"\s*((?:@(?:yearly|annually|monthly|weekly|daily|midnight|hourly|reboot))|(?:\S+\s+){4}\S+)\s+(.+)")
_NICKNAMES = {
    "@yearly": 366, "@annually": 366, "@monthly": 31, "@weekly": 7, "@daily": 1, "@midnight": 1, "@hourly": 1,
    "yearly": 366, "annually": 366, "semiannually": 184, "quarterly": 92, "monthly": 31, "weekly": 7, "daily": 1,
    "hourly": 1, "minutely": 1,
}  # fmt: skip
MAX_ROWS = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """A caller that is to call at certain times; ``spiffe_id`` may be the end of an identity, `/ns/a/sa/b`.

    ``destination`` is empty when the declaration does not name one.
    """

    spiffe_id: str
    destination: str
    cron: str
    origin: str = ""

    def speaks_of(self, source: str, destination: str) -> bool:
        """Whether a call is one that it declares."""
        is_caller = source == self.spiffe_id or (self.spiffe_id.startswith("/") and source.endswith(self.spiffe_id))
        return is_caller and self.destination in ("", destination)

    @property
    def period_days(self) -> int:
        """How many days apart two runs can be."""
        return period_days(self.cron)

    @property
    def hours_a_day(self) -> int:
        """At how many hours of a day it runs at most."""
        return hours_a_day(self.cron)


class ScheduleError(ValueError):
    """A line of a file that declares no schedule; ``line`` is its number, from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def read_schedules(text: str, name: str) -> list[Schedule]:
    """Read a file of schedules; its form is told from its name and its text.

    Raises ScheduleError.
    """
    if name.endswith(".timer"):
        return _timer(text, name)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if first.startswith("{") and '"kind"' not in text[:4096]:
        return _rows(text)
    if "kind:" in text or '"kind"' in text:
        return _cronjobs(text, name)
    return _crontab(text, name)


def _rows(text: str) -> list[Schedule]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise ScheduleError(number) from err
        if not isinstance(row, dict) or not all(
            isinstance(row.get(field), str) for field in ("spiffe_id", "destination", "cron")
        ):
            raise ScheduleError(number)
        found.append(Schedule(row["spiffe_id"], row["destination"], row["cron"]))
        if len(found) > MAX_ROWS:
            raise ScheduleError(number)
    return found


def _cronjobs(text: str, name: str) -> list[Schedule]:
    nodes, problems = compose_documents(text, name)
    if problems:
        raise ScheduleError(problems[0].span.line if problems[0].span is not None else 1)
    found = []
    for node in nodes:
        document = node.plain()
        items = (
            document.get("items") if isinstance(document, Mapping) and document.get("kind") == "List" else [document]
        )
        found += [
            _cronjob(item, node.span.line)
            for item in (items if isinstance(items, list) else ())
            if isinstance(item, Mapping) and item.get("kind") == "CronJob"
        ]
    return found


def _cronjob(item: Mapping[str, object], line: int) -> Schedule:
    spec = item.get("spec")
    metadata = item.get("metadata")
    if not isinstance(spec, Mapping) or not isinstance(metadata, Mapping) or not isinstance(spec.get("schedule"), str):
        raise ScheduleError(line)
    pod: object = spec
    for field in ("jobTemplate", "spec", "template", "spec"):
        pod = pod.get(field) if isinstance(pod, Mapping) else None
    account = pod.get("serviceAccountName") if isinstance(pod, Mapping) else None
    namespace = metadata.get("namespace") or "default"
    cron = str(spec["schedule"])
    return Schedule(
        f"/ns/{namespace}/sa/{account or 'default'}", "", cron, f"CronJob {namespace}/{metadata.get('name')}"
    )


def _timer(text: str, name: str) -> list[Schedule]:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units keep their case
    try:
        parser.read_string(text)
    except configparser.Error as err:
        raise ScheduleError(getattr(err, "lineno", None) or 1) from err
    if not parser.has_section("Timer"):
        raise ScheduleError(1)
    stem = name.rpartition("/")[2].removesuffix(".timer")
    unit = parser.get("Timer", "Unit", fallback=f"{stem}.service").removesuffix(".service")
    when = parser.get("Timer", "OnCalendar", fallback="") or parser.get("Timer", "OnUnitActiveSec", fallback="")
    if not when:
        raise ScheduleError(1)
    return [Schedule(f"/{unit}", "", when, f"timer {stem}")]


def _crontab(text: str, name: str) -> list[Schedule]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#") or re.match(r"[A-Za-z_]\w*\s*=", stripped):
            continue
        match = _CRON.match(stripped)
        if match is None:
            raise ScheduleError(number)
        words = match[2].split()
        # the crontab of the system names a user before the command
        command = next((word for word in words if "/" in word), words[0])
        stem = command.rpartition("/")[2]
        found.append(Schedule(f"/{stem}", "", match[1], f"{name} line {number}"))
    return found


def period_days(cron: str) -> int:
    """How many days apart two runs of a schedule can be; 1 for what runs at least daily, and for what is not known."""
    text = cron.strip()
    if text in _NICKNAMES:
        return _NICKNAMES[text]
    fields = text.split()
    if len(fields) == 5:
        day, month, weekday = fields[2], fields[3], fields[4]
        if month not in {"*", "*/1"}:
            return 366 // max(1, len(month.split(",")))
        if day not in {"*", "?", "*/1"}:
            step = re.fullmatch(r"\*/([0-9]{1,2})", day)
            return min(31, int(step[1]) or 1) if step else -(-31 // len(day.split(",")))
        if weekday not in {"*", "?"}:
            return 7
        return 1
    # systemd: `Mon *-*-* 03:00:00`, `*-*-01`, `*-01-01`
    date = next((word for word in fields if word.count("-") == 2 and ":" not in word), "")
    if date:
        _, month, day = date.split("-")
        if month != "*":
            return 366
        if day != "*":
            return 31
    if fields and re.match(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", fields[0]):
        return 7
    return 1


def hours_a_day(cron: str) -> int:
    """At how many hours of a day a schedule runs at most; 24 for what is not known."""
    text = cron.strip()
    if text in _NICKNAMES:
        return 24 if text.removeprefix("@") in {"hourly", "minutely"} else 1
    fields = text.split()
    if len(fields) == 5:
        return _hours(fields[1])
    # systemd: `Mon *-*-* 03:00:00`
    clock = next((word for word in fields if word.count(":") in (1, 2)), "")
    return _hours(clock.partition(":")[0].replace("..", "-")) if clock else 24


def _hours(field: str) -> int:
    """How many hours the field of a cron line names: lists, ranges and steps."""
    found: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?", part)
        if match is None:
            return 24
        low = int(match[1] or 0)
        # `2` is an hour, `2/6` goes on from there
        high = int(match[2]) if match[2] else low if match[1] and not match[3] else 23
        found.update(range(low, min(high, 23) + 1, max(1, int(match[3] or 1))))
    return max(1, len(found))


def unseen(schedules: Iterable[Schedule], seen: Iterable[tuple[str, str]]) -> list[Schedule]:
    """The schedules of which no call was seen."""
    known = list(seen)
    return [item for item in schedules if not any(item.speaks_of(source, target) for source, target in known)]
