"""gunicorn's workers, each with an identity of its own: `gunicorn -k enforcer.sdk.gunicornworker.Worker`.

gunicorn's master binds the ports, forks, and replaces workers; it has no key and decides nothing. A worker asks the
agent who it is before it loads the application, so that nothing is accepted by a process that has no identity: what
connects meanwhile waits in the socket's queue. ASGI applications alone, as with `uvicorn_worker`, whose class this is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from enforcer.sdk.runtime import SOCKET, WAIT_S, Limen, connect
from enforcer.sdk.uvicornserver import Server, guarded
from mesh.problems import Forbidden, Invalid, Problem, Unavailable

_AGAIN_S = 1.0


class Worker(UvicornWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker that serves over mutual TLS what the policies allow."""

    _limen: Limen

    def load_wsgi(self) -> None:
        """Be told identity and policies, then load the application.

        Raises Invalid LM3468 when gunicorn is given a certificate of its own, Forbidden LM3463 for a process that
        `limen run --sdk` did not launch; gunicorn ends with either.
        """
        if self.cfg.is_ssl:
            raise Invalid("LM3468")
        self._limen = self._told()
        super().load_wsgi()
        for name, value in guarded(self.wsgi, self._limen).items():
            setattr(self.config, name, value)

    def _told(self) -> Limen:
        """Ask the agent until it answers: one that is being replaced is waited for, and so is its memory of us.

        gunicorn ends what does not say that it lives, and ends itself when a worker cannot begin.
        """
        patience = min(self.timeout, WAIT_S) if self.timeout else WAIT_S
        end = time.monotonic() + WAIT_S
        while True:
            self.notify()
            try:
                return connect(timeout_s=patience)
            except (Forbidden, Unavailable) as problem:
                if isinstance(problem, Forbidden) and (SOCKET not in os.environ or time.monotonic() > end):
                    self._say(problem)
                    raise
                self._say(problem)
            time.sleep(_AGAIN_S)

    def _say(self, problem: Problem) -> None:
        self.log.error("%s", problem)

    def run(self) -> None:
        """Serve until gunicorn says otherwise, and hand over what is left to tell."""
        try:
            with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
                runner.run(self._serve())
        finally:
            self._limen.close()

    async def _serve(self) -> None:
        server = Server(self.config, self._limen)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
