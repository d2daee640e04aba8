"""The server's public door, from outside: TLS to exactly the pinned key, and one JSON answer.

The pinned key alone proves the server: no certificate authority, name or date plays a part, so that an agent whose
clock is wrong, or whose every known CA has expired, still finds its server. What an answer means, others say.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mesh.clock import parse_time
from mesh.problems import Forbidden, Invalid, Unavailable

SERVER_NAME = "limen-server"
TIMEOUT_S = 15.0
_MAX_ANSWER_BYTES = 8 << 20


class Door:
    """A server's address and the pin of its key. ``certificate`` is what it showed last, DER."""

    def __init__(self, url: str, pin: str) -> None:
        """Read the address.

        Raises Invalid LM3441 for one that is not `https://HOST:PORT`.
        """
        self.url, self.pin = url, pin
        self._host, self._port = _address(url)
        self.certificate = b""

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Ask the server.

        1. The server's key has the pinned hash; only then anything is sent to it.
        2. The answer is a JSON object of a bounded size, and no problem.

        Raises Forbidden LM3442 for (1), Unavailable LM3443 when it does not answer, and Forbidden with the code that it
        refuses with, Unavailable with its code when it is too busy.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # the handshake proves that the server holds the key of the certificate it shows; step 1 says whose that is
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=context)
        try:
            raw = socket.create_connection((self._host, self._port), timeout=TIMEOUT_S)
            tls = connection.sock = context.wrap_socket(raw, server_hostname=SERVER_NAME)
            # (1)
            certificate = tls.getpeercert(binary_form=True) or b""
            if not hmac.compare_digest(pin_of(certificate), self.pin):
                raise Forbidden("LM3442", url=self.url)
            self.certificate = certificate
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            # (2)
            answer = json.loads(response.read(_MAX_ANSWER_BYTES))
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as err:
            reason = getattr(err, "strerror", None) or str(err) or type(err).__name__
            raise Unavailable("LM3443", url=self.url, reason=reason) from err
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise Unavailable("LM3443", url=self.url, reason="its answer cannot be read")
        problem = answer.get("problem")
        if response.status >= 300 or isinstance(problem, dict):
            self._refuse(problem if isinstance(problem, dict) else {})
        return answer

    def _refuse(self, told: Mapping[str, Any]) -> None:
        found = told.get("facts")
        facts: dict[str, Any] = {"reason": "it refuses", **(found if isinstance(found, dict) else {}), "url": self.url}
        code = str(told.get("code", "LM3443"))
        raise (Unavailable if told.get("class") == "Unavailable" else Forbidden)(code, **facts)


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate's key; empty for what is no certificate."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return ""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(spki).hexdigest()


def time_of(answer: Mapping[str, Any]) -> dt.datetime | None:
    """The server's time in an answer, None when it says none."""
    try:
        return parse_time(str(answer.get("time", "")))
    except ValueError:
        return None


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise Invalid("LM3441", url=url) from err
    if parts.scheme != "https" or not parts.hostname or port is None:
        raise Invalid("LM3441", url=url)
    return parts.hostname, port
