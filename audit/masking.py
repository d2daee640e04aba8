"""Masks: what is secret or personal in a record is gone before it reaches any disk.

Built-in names and shapes are masked always; settings add names, and take none away. Three ways: a value is *dropped*,
or becomes a *hash* by a keyed HMAC (equal values stay equal, nobody without the key can try them), or a *token* that
only the holder of the key can read again (AES-SIV, RFC 5297: equal values stay equal there too). Pure.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from mesh.problems import Invalid

# values under these names never leave the process, wherever they stand in a record; `_` and `-` are the same
DROPPED = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "password", "passwd", "secret", "token", "key"}
)
_DROPPED_ENDS = tuple(
    f"-{name}" for name in ("authorization", "cookie", "password", "secret", "token", "api-key", "private-key", "jwt")
)
HASHED = frozenset({"sub", "email", "x-api-key", "api-key", "session", "session-id", "preferred-username"})
# request targets: their query parameters are named values too
_TARGETS = frozenset({"path", "target", "url", "uri", "referer", "location", "query"})
# what is a secret whatever it is called: credentials of HTTP's schemes, and signed tokens
_SECRET_TEXT = re.compile(
    r"(?i:\b(?:bearer|basic|digest|negotiate|dpop)\s+[A-Za-z0-9+/._~=-]{8,})"
    r"|\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
REMOVED = "[removed]"
HASH, TOKEN = "hmac:", "token:"
MAX_NAMES = 1000
MAX_TEXTS = 4096
_MASKED = re.compile(r"hmac:[0-9a-f]{32}\Z|token:[A-Za-z0-9_-]*\Z")
_MAX_DEPTH = 32
# texts of this length at most are remembered as they were masked: most fields of a record say what the last one said
_REMEMBERED = 200

_PLAIN = frozenset({int, bool, type(None)})
_Rule = Literal["drop", "hash", "tokenise", "target"]


class Masking:
    """The masks of one process; ``key`` is 32 secret bytes."""

    def __init__(
        self, key: bytes, *, drop: Iterable[str] = (), hashed: Iterable[str] = (), tokenise: Iterable[str] = ()
    ) -> None:
        self._key = key
        self._more: dict[str, _Rule] = {
            **{_plain(name): "tokenise" for name in tokenise},
            **{_plain(name): "hash" for name in hashed},
            **{_plain(name): "drop" for name in drop},
        }
        self._siv = AESSIV(hashlib.blake2b(key, digest_size=64, person=b"limen-token").digest())
        # what names ask for, and what texts became
        self._rules: dict[str, _Rule | None] = {}
        self._free: set[str] = set()
        self._texts: dict[str, str] = {}

    def mask(self, value: object) -> object:
        """Mask a value at any depth; what was masked before stays as it is.

        1. A value under a dropped name becomes ``[removed]``; so does what is nested deeper than 32 levels.
        2. A value under a hashed name becomes ``hmac:`` and 32 hexadecimal digits of HMAC-SHA-256, one under a
           tokenised name ``token:`` and base64url.
        3. A list of pairs, as headers are, is treated like a map; so are the query parameters of a request target.
        4. In EVERY text, what has the shape of a credential is removed, whatever its name.
        """
        return self._mask(value, _MAX_DEPTH)

    def reveal(self, token: str) -> str:
        """The text behind a token. Raises Invalid LM6003 for one that another key made, or nobody."""
        try:
            data = base64.urlsafe_b64decode(token.removeprefix(TOKEN) + "==")
            return self._siv.decrypt(data, None).decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError, binascii.Error) as err:
            raise Invalid("LM6003") from err

    def _mask(self, value: object, depth: int) -> object:
        # what nearly every value is; the rest needs looks that cost as much as half of a record
        if type(value) is dict and depth:
            return self._map(value, depth)
        if isinstance(value, str):
            return _masked_text(value)
        if not isinstance(value, Mapping | list | tuple):
            return value
        if not depth:
            return REMOVED
        if isinstance(value, Mapping):
            return self._map(value, depth)
        # (3)
        if value and all(
            isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) for item in value
        ):
            return [[item[0], self._masked(item[0], item[1], depth)] for item in value]
        return [self._mask(item, depth - 1) for item in value]

    def _map(self, value: Mapping[object, object], depth: int) -> dict[str, object]:
        """A map. Most values are short texts, under names that ask for nothing, and were there a moment ago too."""
        free, texts, found = self._free, self._texts, {}
        for name, item in value.items():
            if name in free:
                kind = type(item)
                if kind is str:
                    text = texts.get(item)  # type: ignore[call-overload]
                    if text is not None:
                        found[name] = text
                        continue
                elif kind in _PLAIN:
                    found[name] = item
                    continue
            found[str(name)] = self._masked(str(name), item, depth)
        return found

    def _masked(self, name: str, value: object, depth: int) -> object:
        rule = self._rule(name)
        if rule is not None:
            found = self._by_rule(rule, value)
            if found is not None:
                return found
            if rule == "target" and isinstance(value, str) and "=" in value:
                value = self._masked_target(value)
        if type(value) is str:
            text = _masked_text(value)
            # what has a rule of its own is never remembered
            if rule is None and len(value) <= _REMEMBERED:
                if len(self._texts) >= MAX_TEXTS:
                    self._texts.clear()
                self._texts[value] = text
            return text
        return value if type(value) in _PLAIN else self._mask(value, depth - 1)

    def _by_rule(self, rule: _Rule, value: object) -> str | None:
        """What a value becomes because of its name, None when the name asks for nothing."""
        if value is None or rule == "target":
            return None
        # (1)
        if rule == "drop":
            return REMOVED
        # (2)
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        if _MASKED.match(text) or text == REMOVED:
            return text
        data = text.encode("utf-8", "surrogatepass")
        if rule == "hash":
            return HASH + hmac.new(self._key, data, hashlib.sha256).hexdigest()[:32]
        return TOKEN + base64.urlsafe_b64encode(self._siv.encrypt(data, None) if data else b"").rstrip(b"=").decode()

    def _rule(self, name: str) -> _Rule | None:
        if name in self._rules:
            return self._rules[name]
        if len(self._rules) >= MAX_TEXTS:
            self._rules.clear()
            self._free.clear()
        found = self._rules[name] = self._rule_of(name)
        if found is None:
            self._free.add(name)
        return found

    def _rule_of(self, name: str) -> _Rule | None:
        low = _plain(name)
        if low in DROPPED or low.endswith(_DROPPED_ENDS):
            return "drop"
        more = self._more.get(low)
        if more is not None:
            return more
        if low in HASHED:
            return "hash"
        return "target" if low in _TARGETS else None

    def _masked_target(self, target: str) -> str:
        """Step 3 of `mask` for a request target."""
        before, mark, query = target.partition("?")
        if not mark:
            before, query = "", target
        parts = []
        for part in query.split("&"):
            name, equals, text = part.partition("=")
            rule = self._rule(urllib.parse.unquote_plus(name)) if equals else None
            found = self._by_rule(rule, text) if rule is not None else None
            parts.append(part if found is None else f"{name}={found}")
        return before + mark + "&".join(parts)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _masked_text(text: str) -> str:
    """Step 4 of `mask`: every one of those shapes has white space in it or begins a JSON object in base64."""
    return _SECRET_TEXT.sub(REMOVED, text) if "eyJ" in text or len(text.split(None, 1)) > 1 else text


@functools.lru_cache(maxsize=8)
def _default(key: bytes) -> Masking:
    return Masking(key)


def mask(value: object, key: bytes) -> object:
    """Mask a value by what is built in alone."""
    return _default(key).mask(value)
