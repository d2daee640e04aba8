"""Nonces that cost nothing to hand out: a time and random bytes under a MAC; only used ones are remembered, boundedly.

When more were used than are remembered, every nonce at least as old as a forgotten one is refused: no replay passes,
and a client that is refused is given a fresh one (RFC 8555 §6.5). The key lives as long as the process.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable

from ca.acme.jws import decode, encode
from mesh.problems import Invalid

LIFE_S = 3600
MAX_USED = 100_000
_MAC_BYTES = 16


class Nonces:
    """Makes nonces and takes each once. ``moment`` is in microseconds."""

    def __init__(self, random: Callable[[int], bytes], *, most: int = MAX_USED) -> None:
        self._random, self._most = random, most
        self._key = random(32)
        self._used: OrderedDict[bytes, int] = OrderedDict()
        self._floor = -1

    def make(self, moment: int) -> str:
        """Make a nonce."""
        plain = moment.to_bytes(8) + self._random(10)
        return encode(plain + hmac.digest(self._key, plain, "sha256")[:_MAC_BYTES])

    def take(self, nonce: str, moment: int) -> None:
        """Use a nonce up.

        Raises Invalid LM1401 for one that is not ours, too old, or used.
        """
        try:
            found = decode(nonce, "nonce")
        except Invalid as err:
            raise Invalid("LM1401", reason="it is no base64url") from err
        plain, mac = found[:18], found[18:]
        if len(found) != 18 + _MAC_BYTES or not hmac.compare_digest(
            hmac.digest(self._key, plain, "sha256")[:_MAC_BYTES], mac
        ):
            raise Invalid("LM1401", reason="this process did not make it")
        made = int.from_bytes(plain[:8])
        if made <= self._floor or not -1_000_000 <= moment - made <= LIFE_S * 1_000_000:
            raise Invalid("LM1401", reason="it is too old")
        if plain in self._used:
            raise Invalid("LM1401", reason="it was used")
        self._used[plain] = made
        while len(self._used) > self._most:
            self._floor = max(self._floor, self._used.popitem(last=False)[1])
