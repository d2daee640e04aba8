"""ULIDs: 48 bits of time in milliseconds and 80 random bits, in Crockford's base 32 (26 characters).

They sort by time; the time and the random bytes are arguments. This module reads no clock.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
from collections.abc import Callable, Iterator

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# ten bits at a time: every record has an id
PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_TIME_SHIFTS = tuple(range(40, -1, -10))
_RANDOM_SHIFTS = tuple(range(70, -1, -10))
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
RANDOM_BYTES = 10
RANDOM_LETTERS = 16
_DRAWN = 256
_ENDING = re.compile(f".{{{RANDOM_LETTERS}}}")
_LETTERS = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))


def new_ulid(now: dt.datetime, random: bytes) -> str:
    """Make the ULID of a moment from `RANDOM_BYTES` random bytes.

    Raises ValueError for any other number of bytes, or a moment outside 1970 to 10889.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError("a ULID takes 10 random bytes")
    value = int.from_bytes(random, "big")
    return _time(now) + "".join([PAIRS[value >> shift & 1023] for shift in _RANDOM_SHIFTS])


def random_letters(random: Callable[[int], bytes]) -> Iterator[str]:
    """Draw the sixteen letters that a ULID ends with, without end, from random bytes that are drawn for many at once.

    Of each byte five bits are used: eight of the 256 bytes stand for each letter, so that all are as likely. A process
    that was forked must not go on with its parent's.
    """
    return itertools.chain.from_iterable(
        _ENDING.findall(random(_DRAWN * RANDOM_LETTERS).translate(_LETTERS).decode("ascii")) for _ in itertools.count()
    )


# what happens at once is recorded at once
@functools.lru_cache(maxsize=256)
def _time(now: dt.datetime) -> str:
    return time_letters((now - _EPOCH) // _MILLISECOND)


def time_letters(milliseconds: int) -> str:
    """The ten letters that a ULID of a moment begins with, in milliseconds since 1970.

    Raises ValueError for a moment outside 1970 to 10889.
    """
    if not 0 <= milliseconds < 1 << 48:
        raise ValueError("a ULID holds a time of 48 bits in milliseconds")
    return "".join([PAIRS[milliseconds >> shift & 1023] for shift in _TIME_SHIFTS])


def is_ulid(text: str) -> bool:
    """Whether a text is a ULID in its one canonical form."""
    return _ULID.match(text) is not None


def ulid_time(text: str) -> dt.datetime:
    """The moment that a ULID holds.

    Raises ValueError when the text is no ULID, or its time is after the year 9999.
    """
    if not is_ulid(text):
        raise ValueError("a ULID is 26 characters of Crockford's base 32")
    value = 0
    for character in text[:10]:
        value = value << 5 | _ALPHABET.index(character)
    try:
        return _EPOCH + value * _MILLISECOND
    except OverflowError as err:
        raise ValueError("a ULID's time is at most that of the year 9999") from err
