"""NATS JetStream: one message for each record, with the log's origin and index as its id for de-duplication.

A record is delivered when the stream acknowledged it. The client is asynchronous and runs on a loop of its own here.
`token_file` holds a token, `secret_file` names a `.creds` file.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

from audit.destination import Destination
from audit.formats.forms import FORMS
from audit.sinks.webhook import read_text, tls_of
from mesh.problems import Invalid, Unavailable

_TIMEOUT_S = 15.0


class NatsSink:
    """A subject of a JetStream stream."""

    most, linger_s = 256, 0.0

    def __init__(self, destination: Destination, origin: str) -> None:
        """Find the client library.

        Raises Invalid LM6105 without it, LM6100 for files that cannot be used.
        """
        try:
            self._nats: Any = importlib.import_module("nats")
        except ImportError as err:
            raise Invalid("LM6105", scheme="nats", package="nats-py", extra="nats") from err
        self._to, self._origin = destination, origin
        self._subject = destination.path.strip("/")
        self._form = FORMS[destination.form]
        # one try: when to try again is the export's own business
        self._options: dict[str, Any] = {
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": _TIMEOUT_S,
            "error_cb": _leave,
        }
        options = destination.options
        if options.ca is not None or not destination.is_local:
            self._options["tls"] = tls_of(options, destination.url)
        if options.token_file is not None:
            self._options["token"] = read_text(options.token_file, destination.url)
        if options.secret_file is not None:
            self._options["user_credentials"] = str(options.secret_file)
        self._runner = asyncio.Runner()
        self._client: Any = None

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Publish records in their order and wait for all acknowledgements.

        Raises Unavailable LM6101.
        """
        try:
            self._runner.run(self._publish(records))
        except (OSError, TimeoutError, self._nats.errors.Error) as err:
            self._forget()
            raise Unavailable("LM6101", to=self._to.url, reason=str(err) or type(err).__name__) from err

    async def _publish(self, records: Sequence[tuple[int, bytes]]) -> None:
        if self._client is None:
            host = f"[{self._to.host}]" if ":" in self._to.host else self._to.host
            async with asyncio.timeout(_TIMEOUT_S):
                self._client = await self._nats.connect(f"nats://{host}:{self._to.port}", **self._options)
        stream = self._client.jetstream(timeout=_TIMEOUT_S)
        lines = self._form.lines(records)
        async with asyncio.timeout(2 * _TIMEOUT_S):
            # all are written in their order before the first answer is waited for
            await asyncio.gather(
                *[
                    stream.publish(self._subject, line[:-1], headers={"Nats-Msg-Id": f"{self._origin}:{index}"})
                    for (index, _), line in zip(records, lines, strict=True)
                ]
            )

    def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                self._runner.run(client.close())
            except (OSError, TimeoutError, self._nats.errors.Error):
                return

    def close(self) -> None:
        """Close the connection and the loop."""
        self._forget()
        self._runner.close()


async def _leave(error: Exception) -> None:
    """What went wrong is raised as well; the library would write it to its log besides."""
