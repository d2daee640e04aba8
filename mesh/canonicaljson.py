"""One way to write a JSON value: sorted keys, no spaces, UTF-8, no NaN. What is hashed or signed is written here.

Text is neither escaped nor normalised beyond what JSON demands. This module reads nothing.
"""

from __future__ import annotations

import json

_MORE = (dict, list, tuple)
# made once: `json.dumps` makes one for every call that is not the default's
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def dumps(obj: object) -> bytes:
    """Write a value of dicts with text keys, lists, text, numbers, booleans and None in its one form.

    Raises ValueError for a number that JSON does not have, a lone surrogate or a key that is no text.
    """
    _check_keys(obj)
    return _ENCODE(obj).encode()


def _check_keys(obj: object) -> None:
    """Refuse keys that `json` would quietly turn into text: 1 and "1" must not become one key."""
    waiting = [obj]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError("the keys of a JSON object are text")
                if isinstance(inner, _MORE):
                    waiting.append(inner)
        elif isinstance(value, list | tuple):
            waiting.extend([inner for inner in value if isinstance(inner, _MORE)])
