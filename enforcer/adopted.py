"""A process that another agent started: watched and ended through a pidfd, since it is not our child."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess

from enforcer.process import read_stat
from mesh.problems import NotFound


class AdoptedProcess:
    """A running process, by pid and start time, with as much of `subprocess.Popen` as its end takes."""

    def __init__(self, pid: int, start: int) -> None:
        """Take hold of the process.

        Raises NotFound LM3401 when it ended, or when another process has its pid.
        """
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except OSError as err:
            raise NotFound("LM3401", pid=pid) from err
        try:
            stat = read_stat(pid)
            if stat.start != start or stat.has_ended:
                raise NotFound("LM3401", pid=pid)
        except NotFound:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def kill(self) -> None:
        """End it at once; one that ended is left alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end. Nobody but its parent learns its exit code.

        Raises subprocess.TimeoutExpired.
        """
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
