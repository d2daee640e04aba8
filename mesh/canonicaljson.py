"""One way to write a JSON value: sorted keys, no spaces, UTF-8, no NaN. What is hashed or signed is written here.

Text is neither escaped nor normalised beyond what JSON demands. The standard library's `json` says what the form is;
orjson writes and reads what both are known to write alike, several times as fast: text, booleans, None, integers of 64
bits, and lists, tuples and dicts of those (docs/adr/0044-orjson.md). Tests hold the two to the same bytes.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable

import orjson

_MORE = (dict, list, tuple)
_TEXT = frozenset({str})
_PLAIN = frozenset({str, int, bool, float, type(None)})
# exactly these: floats have two spellings, and what orjson writes of other classes `json` refuses, or writes otherwise
_SAME = frozenset({str, int, bool, type(None)})
_SAME_OR_MORE = _SAME | {*_MORE}


def _encoder() -> Callable[[object], str]:
    """What writes a value: made once, where `JSONEncoder.encode` makes one for every call."""
    slow = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return slow.encode
    # as `JSONEncoder.iterencode` makes it, but for the look at circles, which `_check_keys` would not leave either
    encode = make(None, slow.default, json.encoder.encode_basestring, None, ":", ",", True, False, False)
    return lambda obj: "".join(encode(obj, 0))


_ENCODE = _encoder()
_DECODE = json.JSONDecoder().decode


class NotCanonicalError(ValueError):
    """JSON that says something, in another form than its one."""


def dumps(obj: object) -> bytes:
    """Write a value of dicts with text keys, lists, text, numbers, booleans and None in its one form.

    Raises ValueError for a number that JSON does not have, a lone surrogate or a key that is no text.
    """
    if _is_same(obj):
        try:
            return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            # a key that is no text, a surrogate, a large number, deep nesting: `json` tells
            pass
    return _dumps(obj)


def _dumps(obj: object) -> bytes:
    """`dumps`, by what says what the form is."""
    _check_keys(obj)
    return _ENCODE(obj).encode()


def parse(data: bytes) -> object:
    """Read a value that stands in its one form.

    Raises NotCanonicalError for JSON in another form, ValueError for what is no JSON, RecursionError for what is nested
    too deeply.
    """
    try:
        found: object = orjson.loads(data)
        if _is_same(found) and orjson.dumps(found, option=orjson.OPT_SORT_KEYS) == data:
            return found
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        # it may be in its form all the same
        pass
    return _parse(data)


def _parse(data: bytes) -> object:
    """`parse`, by what says what the form is."""
    text = data.decode()
    found: object = _DECODE(text)
    # keys that were read are text; one that was given twice, and every other spelling, is not written again
    if _ENCODE(found) != text:
        raise NotCanonicalError
    return found


def _is_same(obj: object) -> bool:
    """Whether a value holds nothing that orjson may write in another way than `json`, but for what it refuses."""
    if type(obj) is dict and _SAME.issuperset(map(type, obj.values())):
        return True
    waiting = [obj]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            inner = [*value.values()]
        elif type(value) in _MORE:
            assert isinstance(value, list | tuple)
            inner = [*value]
        elif type(value) in _SAME:
            continue
        else:
            return False
        if not _SAME_OR_MORE.issuperset(map(type, inner)):
            return False
        waiting.extend([item for item in inner if type(item) in _MORE])
    return True


def _check_keys(obj: object) -> None:
    """Refuse keys that `json` would quietly turn into text: 1 and "1" must not become one key."""
    waiting = [obj]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            # most keys are text and nothing else, and most values hold no other: that is seen at once
            if not _TEXT.issuperset(map(type, value)) and not all(isinstance(key, str) for key in value):
                raise ValueError("the keys of a JSON object are text")
            value = value.values()
        elif not isinstance(value, _MORE):
            continue
        if not _PLAIN.issuperset(map(type, value)):
            waiting.extend([inner for inner in value if isinstance(inner, _MORE)])
