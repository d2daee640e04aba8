"""OTLP/HTTP with the JSON encoding: batches of log records to a collector's `/v1/logs`.

A partial success that rejects records is a failure: the batch comes again, and the collector's own duplicates are told
apart by `log.record.uid`. Silently dropping what a collector refused would be a gap that nobody sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.destination import Destination
from audit.formats.otlp import BATCH, logs_data
from audit.sinks.webhook import client_of, post
from mesh.problems import Unavailable

_PATH = "/v1/logs"


class OtlpSink:
    """A collector."""

    most, linger_s = BATCH, 0.2

    def __init__(self, destination: Destination) -> None:
        """Open it. Raises Invalid LM6100 for files that cannot be used."""
        scheme = destination.scheme.removeprefix("otlp+")
        host = f"[{destination.host}]" if ":" in destination.host else destination.host
        self._url = f"{scheme}://{host}:{destination.port}{destination.path.rstrip('/') or _PATH}"
        self._client = client_of(destination)

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Post one batch.

        Raises Unavailable LM6101 when it was not taken, or not all of it.
        """
        answer = post(self._client, self._url, logs_data(records), {"content-type": "application/json"})
        try:
            rejected = int((answer.json().get("partialSuccess") or {}).get("rejectedLogRecords") or 0)
        except (ValueError, AttributeError, TypeError):
            rejected = 0
        if rejected:
            raise Unavailable("LM6101", to=self._url, reason=f"it rejected {rejected} records of a batch")

    def close(self) -> None:
        """Close connections."""
        self._client.close()
