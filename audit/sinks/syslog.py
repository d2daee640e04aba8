"""Syslog over TLS (RFC 5425): octet counting, one connection, and the peer's name verified.

Syslog has no acknowledgement. A batch counts as delivered when the receiver's kernel has acknowledged every byte of it
and the connection still stands; what a receiver loses that falls over with bytes in its own buffers, nobody is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence

from audit.destination import Destination
from audit.formats import syslog
from audit.formats.forms import FORMS
from audit.sinks.webhook import tls_of
from mesh.problems import Unavailable

_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.01


class SyslogSink:
    """A receiver of syslog over TLS."""

    most, linger_s = 500, 0.0

    def __init__(self, destination: Destination) -> None:
        """Read certificates. Raises Invalid LM6100 for files that cannot be used."""
        self._to = destination
        self._tls = tls_of(destination.options, destination.url)
        self._link: ssl.SSLSocket | None = None

    def send(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Send frames and wait until the other host has them.

        Raises Unavailable LM6101.
        """
        data = b"".join(frame(found) for found in self._messages(records))
        try:
            link = self._connect()
            _look(link)
            link.sendall(data)
            _drained(link)
            _look(link)
        except OSError as err:
            self.close()
            raise Unavailable("LM6101", to=self._to.url, reason=str(err) or type(err).__name__) from err

    def _messages(self, records: Sequence[tuple[int, bytes]]) -> list[bytes]:
        if self._to.form == "syslog":
            return [syslog.message(index, data) for index, data in records]
        lines = FORMS[self._to.form].lines(records)
        return [syslog.message(*item, body=line[:-1]) for item, line in zip(records, lines, strict=True)]

    def _connect(self) -> ssl.SSLSocket:
        if self._link is None:
            plain = socket.create_connection((self._to.host, self._to.port), _TIMEOUT_S)
            try:
                self._link = self._tls.wrap_socket(plain, server_hostname=self._to.host)
            except BaseException:
                plain.close()
                raise
            self._link.settimeout(_TIMEOUT_S)
        return self._link

    def close(self) -> None:
        """Say goodbye and close the connection: what the receiver has it reads to its end."""
        if self._link is not None:
            with contextlib.suppress(OSError, ValueError):
                self._link.settimeout(1.0)
                self._link.unwrap()
            self._link.close()
            self._link = None


def frame(message: bytes) -> bytes:
    """A message with its length in octets before it (RFC 5425 §4.3)."""
    return f"{len(message)} ".encode() + message


def _look(link: ssl.SSLSocket) -> None:
    """Raises OSError when the receiver ended the connection: it says nothing else on it."""
    link.settimeout(0)
    try:
        if link.recv(1024) == b"":
            raise ConnectionError("the receiver ended the connection")
    except (ssl.SSLWantReadError, BlockingIOError):
        pass
    finally:
        link.settimeout(_TIMEOUT_S)


def _drained(link: ssl.SSLSocket) -> None:
    """Wait until the peer's kernel has acknowledged every byte (SIOCOUTQ). Raises OSError after 30 s."""
    deadline = time.monotonic() + _TIMEOUT_S
    while struct.unpack("i", fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]:
        if time.monotonic() > deadline:
            raise TimeoutError("the receiver acknowledges nothing")
        # an error or an end of the connection ends the pause at once
        select.select([link], [], [], _LOOK_AGAIN_S)
        _look(link)
