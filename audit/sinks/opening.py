"""Opens the sink of a destination: the one place that knows them all. A library is loaded when it is asked for."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Callable

from audit.destination import Destination
from audit.formats.forms import FORMS, PARQUET
from audit.pump import Sink
from audit.sinks.appending import FileSink, StdoutSink
from mesh.problems import Invalid

EXPERIMENTAL: frozenset[str] = frozenset()
"""Schemes that were never tried against the real thing."""


def open_sink(destination: Destination, *, origin: str, now: Callable[[], dt.datetime]) -> Sink:
    """The sink of a destination; ``origin`` is the log's name, ``now`` what time it is when something is signed.

    Raises Invalid LM6100 for files that cannot be used, LM6105 for a library that is not installed.
    """
    match destination.scheme:
        case "stdout":
            return StdoutSink(FORMS[destination.form])
        case "file" | "s3" if destination.is_directory:
            return _partitions(destination)
        case "file":
            if destination.form == PARQUET:
                raise Invalid("LM6100", to=destination.url, reason="Parquet goes below a directory: end it with `/`")
            path = pathlib.Path(destination.path)
            return FileSink(path, FORMS[destination.form], destination.options.rotate_bytes)
        case "https" | "http":
            from audit.sinks.webhook import WebhookSink  # noqa: PLC0415  asked for here alone

            return WebhookSink(destination, origin, now)
        case "otlp+https" | "otlp+http":
            from audit.sinks.otlp import OtlpSink  # noqa: PLC0415

            return OtlpSink(destination)
        case "syslog+tls":
            from audit.sinks.syslog import SyslogSink  # noqa: PLC0415

            return SyslogSink(destination)
        case _:
            from audit.sinks.nats import NatsSink  # noqa: PLC0415

            return NatsSink(destination, origin)


def _partitions(destination: Destination) -> Sink:
    from audit.sinks.partitions import Bucket, Directory, PartitionSink  # noqa: PLC0415  DuckDB is large

    place = Bucket(destination) if destination.scheme == "s3" else Directory(pathlib.Path(destination.path))
    return PartitionSink(place, destination.form)
