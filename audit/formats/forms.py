"""The forms by name: how a batch of records is written, and what the bytes are called on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from audit.formats import cef, ecs, jsonl, ocsf, otlp, syslog

Records = Iterable[tuple[int, bytes]]
PARQUET = "parquet"
"""The form that is no lines: a file of it is written by `audit.sinks.parquet`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form: its lines, the media type of many of them, and how a file of them ends."""

    name: str
    media_type: str
    suffix: str
    lines: Callable[[Records], Iterator[bytes]]


_LINES = "application/x-ndjson"
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(name="jsonl", media_type=_LINES, suffix=".jsonl", lines=jsonl.lines),
        Form(name="ocsf", media_type=_LINES, suffix=".ocsf.jsonl", lines=ocsf.lines),
        Form(name="ecs", media_type=_LINES, suffix=".ecs.jsonl", lines=ecs.lines),
        Form(name="cef", media_type="text/plain; charset=utf-8", suffix=".cef", lines=cef.lines),
        Form(name="syslog", media_type="text/plain; charset=utf-8", suffix=".log", lines=syslog.lines),
        Form(name="otlp", media_type="application/json", suffix=".otlp.jsonl", lines=otlp.lines),
    )
}
NAMES = (*FORMS, PARQUET)
"""EVERY form's name."""
