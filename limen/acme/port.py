"""The certificate that ACME clients see on the TLS port: under the ACME root, for the names of this server.

Agents ask for `limen-server` and pin its key, and see none of this. A configured web certificate stays the default.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from concurrent.futures import Executor

import structlog

from limen.acme.service import Acme
from limen.acme.shapes import own_names, pem_of
from limen.tlsport import SERVER_NAME, TlsPort, context_of
from mesh.problems import Problem

RENEW = dt.timedelta(days=1)


class AcmePort:
    """Keeps the port's certificate fresh. ``is_default`` shows it to clients that ask for no name, too."""

    def __init__(self, acme: Acme, tls: TlsPort, host: str, *, is_default: bool) -> None:
        self._acme, self._tls, self._host, self._is_default = acme, tls, host, is_default

    def renew(self) -> None:
        """Show a new certificate."""
        found = own_names(self._host, self._acme.config.server_names)
        key, chain = self._acme.server_chain(found)
        context = context_of(pem_of(key), chain)
        self._tls.serve([value for kind, value in found if kind == "dns" and value != SERVER_NAME], context)
        if self._is_default:
            self._tls.serve_default(context)

    async def keep(self, worker: Executor, stop: asyncio.Event) -> None:
        """Renew once a day, until ``stop``."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RENEW.total_seconds())
            if not stop.is_set():
                try:
                    await asyncio.get_running_loop().run_in_executor(worker, self.renew)
                except Problem as problem:
                    # what is shown stays; the server has other things to do
                    structlog.get_logger().error("the port's certificate is not renewed", reason=str(problem))
