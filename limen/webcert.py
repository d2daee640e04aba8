"""The web certificate of the public port, from files that somebody else renews (an ACME client, usually).

Read when the server begins, where what is wrong with it refuses to start; read again when a file changes, where what is
wrong with it is said and the last good one stays. This module asks nobody for a certificate.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import ssl

import structlog

from limen.tlsport import web_context
from mesh.certpath import read_pem
from mesh.problems import Invalid

Life = tuple[dt.datetime, dt.datetime]
Stamp = tuple[tuple[int, int, int], ...]


class WebCertificate:
    """A chain and its key, as they are in two files now; ``life`` is when the leaf is valid.

    Raises Invalid LM1516 for files that cannot be used together.
    """

    def __init__(self, certificate: pathlib.Path, key: pathlib.Path) -> None:
        self._certificate, self._key = certificate, key
        self._stamp = self._look()
        self.context = self._read()

    def refresh(self) -> ssl.SSLContext | None:
        """The new context when the files changed and can be used, else None."""
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            self.context = self._read()
        except Invalid as problem:
            # the two files are rarely replaced in one step: the next change is looked at again
            structlog.get_logger().warning("the web certificate stays as it was", reason=str(problem))
            return None
        return self.context

    def _read(self) -> ssl.SSLContext:
        try:
            chain = self._certificate.read_bytes()
            context = web_context(self._key.read_bytes(), chain)
            leaf = read_pem(chain)[0]
        except ValueError as err:
            raise Invalid("LM1516", reason=str(err)) from err
        except OSError as err:
            raise Invalid("LM1516", reason=f"`{err.filename}`: {err.strerror}") from err
        self.life: Life = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return context

    def _look(self) -> Stamp | None:
        try:
            found = [path.stat() for path in (self._certificate, self._key)]
        except OSError:
            return None
        return tuple((item.st_ino, item.st_size, item.st_mtime_ns) for item in found)
