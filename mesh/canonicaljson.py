"""One way to write a JSON value: sorted keys, no spaces, UTF-8, no NaN. What is hashed or signed is written here.

Text is neither escaped nor normalised beyond what JSON demands. This module reads nothing.
"""

from __future__ import annotations

import json


def dumps(obj: object) -> bytes:
    """Write a value of dicts with text keys, lists, text, numbers, booleans and None in its one form.

    Raises ValueError for a number that JSON does not have, a lone surrogate or a key that is no text.
    """
    _check_keys(obj)
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _check_keys(obj: object) -> None:
    """Refuse keys that `json` would quietly turn into text: 1 and "1" must not become one key."""
    waiting = [obj]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError("the keys of a JSON object are text")
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
