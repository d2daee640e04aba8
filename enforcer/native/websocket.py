"""What makes a request a WebSocket's, and what answers it (RFC 6455 §4): read strictly, or refused.

Only the opening handshake is HTTP and is read here. What follows it is a stream whose bytes nobody looks at. Fields
come as `enforcer.native.http1` sorted them: those that are sent on in order, the others by lower-case name.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

from mesh.problems import Invalid

_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes, RFC 4648 §4
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3

_Fields = Sequence[tuple[bytes, bytes]]
_Special = Mapping[bytes, Sequence[bytes]]


def key_of(method: bytes, special: _Special, options: frozenset[bytes], fields: _Fields, *, is_bare: bool) -> bytes:
    """The key of a request that asks to become a WebSocket (RFC 6455 §4.2.1); ``is_bare`` if it has no body.

    1. It is a GET without a body whose only Upgrade is `websocket`, and `Connection` names it.
    2. Version 13 and one key of 16 bytes stand once each, and `Connection` does not take them away.

    Raises Invalid LM3108.
    """
    # (1)
    asked = [value.lower() for value in special.get(b"upgrade", ())] == [b"websocket"] and b"upgrade" in options
    if not asked or method != b"GET" or not is_bare or b"http2-settings" in special:
        raise Invalid("LM3108")
    # (2)
    keys, versions = (
        [value for name, value in fields if name.lower() == wanted]
        for wanted in (b"sec-websocket-key", b"sec-websocket-version")
    )
    if versions != [b"13"] or len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise Invalid("LM3108")
    if any(option.startswith(b"sec-websocket-") for option in options):
        raise Invalid("LM3108")
    return keys[0]


def accept_of(key: bytes) -> bytes:
    """What proves that a key was read."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_switch(fields: _Fields, special: _Special, options: frozenset[bytes], key: bytes) -> None:
    """Refuse a 101 that is no answer to the request's key (RFC 6455 §4.2.2); without a ``key`` nobody asked.

    Raises Invalid LM3302.
    """
    if not key:
        raise Invalid("LM3302", rule="nobody asked for another protocol")
    proofs = [value for name, value in fields if name.lower() == b"sec-websocket-accept"]
    upgrades = [value.lower() for value in special.get(b"upgrade", ())]
    is_framed = b"content-length" in special or b"transfer-encoding" in special
    if proofs != [accept_of(key)] or upgrades != [b"websocket"] or b"upgrade" not in options or is_framed:
        raise Invalid("LM3302", rule="a switch to WebSocket answers the request's key")
