"""Nonces that cost the server nothing until they come back: made and recognised with a key, remembered only once used.

A nonce is ``expiry (8 bytes, milliseconds) | random (16) | HMAC-SHA256 of these (16)``. Whoever asks for a million gets
a million and leaves no trace; one that comes back is used up by the attempt, whether that succeeds or not.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac

from mesh.problems import Forbidden, Unavailable

LIFE = dt.timedelta(seconds=60)
MAX_USED = 65_536
RANDOM_BYTES = 16
_MAC_BYTES = 16
_SIZE = 8 + RANDOM_BYTES + _MAC_BYTES


class Nonces:
    """The nonces of one server process; those of another one, or of before a restart, are unknown here."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._used: dict[bytes, int] = {}

    def make(self, now: dt.datetime, random: bytes) -> str:
        """Make a nonce of 16 random bytes."""
        body = _milliseconds(now + LIFE).to_bytes(8, "big") + random
        return base64.b64encode(body + self._mac(b"nonce", body)).decode()

    def use(self, text: str, now: dt.datetime) -> bytes:
        """Use a nonce up and return its bytes.

        1. It is one of ours and has not expired.
        2. It was not used; from now on it is.

        Raises Forbidden LM1240, Unavailable LM1241 when more are in use than this server remembers.
        """
        # (1)
        try:
            found = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as err:
            raise Forbidden("LM1240", reason="it is none of this server's") from err
        body, mac = found[:-_MAC_BYTES], found[-_MAC_BYTES:]
        if len(found) != _SIZE or not hmac.compare_digest(mac, self._mac(b"nonce", body)):
            raise Forbidden("LM1240", reason="it is none of this server's")
        moment = _milliseconds(now)
        end = int.from_bytes(body[:8], "big")
        if moment >= end:
            raise Forbidden("LM1240", reason="it has expired")
        # (2)
        if found in self._used:
            raise Forbidden("LM1240", reason="it was used before")
        if len(self._used) >= MAX_USED:
            self._used = {used: expiry for used, expiry in self._used.items() if expiry > moment}
            if len(self._used) >= MAX_USED:
                raise Unavailable("LM1241")
        self._used[found] = end
        return found

    def secret_for(self, purpose: bytes, nonce: str) -> bytes:
        """A secret of 32 bytes that belongs to a nonce and a purpose: known here again without being kept."""
        return hmac.digest(self._secret, b"secret\0" + purpose + b"\0" + nonce.encode(), hashlib.sha256)

    def _mac(self, purpose: bytes, body: bytes) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + body, hashlib.sha256)[:_MAC_BYTES]


def _milliseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)
