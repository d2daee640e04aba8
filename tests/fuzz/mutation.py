"""One byte mutator for every parser: what it makes of a seed depends on the seed, the number and nothing else.

A number gives the same bytes on every machine, so a finding is its parser, its seed and its number. Beside plain
damage (bits, bytes, cuts, splices) it knows what formats here are made of: DER lengths, big-endian counts, base64url
parts, JSON members. What it makes inside a part is put together again as its writer would, so that it gets past the
outer checks.
"""

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence

_EDGES = (0, 1, 0x20, 0x22, 0x2E, 0x30, 0x5C, 0x7F, 0x80, 0x81, 0x84, 0xFE, 0xFF)
# texts that parsers of JSON, names and numbers have tripped over
WORDS = (
    b'"\\ud800"', b"1e999", b"-0", b"9" * 5000, b"NaN", b"Infinity", b"null", b"true", b"[]", b"{}", b'""', b"\x00",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 3000, b'{"a":' * 1500, b"spiffe://", b"..", b"%00", b"\\u0000", b"\r\n",
    b"0.1", b"1" * 40, b"\xc0\xaf", "\u202e".encode(),
)  # fmt: skip
_PART = re.compile(rb"[A-Za-z0-9_-]{12,}")


def mutants(seeds: Sequence[bytes], numbers: range) -> Iterator[bytes]:
    """One changed seed for each number."""
    for number in numbers:
        yield mutant(seeds, number)


def mutant(seeds: Sequence[bytes], number: int) -> bytes:
    """The changed seed of a number."""
    chance = random.Random(hashlib.sha256(b"\0".join(seeds) + str(number).encode()).digest())
    found = chance.choice(seeds)
    # mostly one change: more of them hide each other behind the first check
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        found = chance.choice(_CHANGES)(found, seeds, chance)
    return found


def _at(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data)) if data else 0


def _flip(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if data else data


def _set(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + bytes([chance.choice(_EDGES)]) + data[at + 1 :]


def _cut(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    return data[: _at(data, chance)]


def _remove(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + data[at + chance.choice((1, 2, 4, 16, 64)) :]


def _repeat(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    at = _at(data, chance)
    end = at + chance.choice((1, 4, 16, 64, 256))
    return data[:end] + data[at:end] * chance.choice((1, 1, 2, 30)) + data[end:]


def _insert(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    at = _at(data, chance)
    return data[:at] + chance.choice((*WORDS, chance.randbytes(chance.choice((1, 2, 8, 64))))) + data[at:]


def _splice(data: bytes, seeds: Sequence[bytes], chance: random.Random) -> bytes:
    other = chance.choice(seeds)
    return data[: _at(data, chance)] + other[_at(other, chance) :]


def _length(data: bytes, _: Sequence[bytes], chance: random.Random) -> bytes:
    """Another length behind the tag of some DER element, or another count of two or four bytes."""
    at = _at(data, chance)
    tags = [
        place
        for place in range(at, min(len(data) - 1, at + 64))
        if data[place] in b"\x02\x03\x04\x05\x06\x0c\x30\x31\xa0\xa3"
    ]
    if tags and chance.random() < 0.8:
        at = chance.choice(tags) + 1
        wrong = (
            b"\x00",
            b"\x7f",
            b"\x80",
            b"\x81\x01",
            b"\x82\xff\xff",
            b"\x84\xff\xff\xff\xff",
            b"\x84\x7f\xff\xff\xff",
            b"\x88" + b"\xff" * 8,
        )
        near = bytes([max(0, min(255, data[at] + chance.choice((-1, 1, 2))))])
        return data[:at] + chance.choice((*wrong, near, near, near)) + data[at + 1 :]
    size = chance.choice((2, 4))
    return data[:at] + chance.choice((0, 1, 0x7FFF, 0xFFFF)).to_bytes(size, "big") + data[at + size :]


def _inside_base64url(data: bytes, seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Change what stands in one base64url part, and write it again as it was written."""
    parts = list(_PART.finditer(data))
    if not parts:
        return _flip(data, seeds, chance)
    part = chance.choice(parts)
    try:
        inner = base64.urlsafe_b64decode(part[0] + b"=" * (-len(part[0]) % 4))
    except ValueError:
        return _flip(data, seeds, chance)
    inner = chance.choice((_flip, _set, _cut, _insert, _member, _member, _member, _length))(inner, seeds, chance)
    return data[: part.start()] + base64.urlsafe_b64encode(inner).rstrip(b"=") + data[part.end() :]


def _member(data: bytes, seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Change one member of some JSON object: another value, another name, gone, there twice, or one more."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _insert(data, seeds, chance)
    objects = list(_objects(document))
    if not objects:
        return _insert(data, seeds, chance)
    target = chance.choice(objects)
    name = chance.choice([*target, "x"])
    mark = "\x01here\x01"
    how = chance.randrange(5)
    value = target.pop(name, "x")
    if how == 0:
        return _write(document)
    written = json.dumps(value).encode()
    if how == 1:
        written = chance.choice((*WORDS, b'"' + b"a" * 70_000 + b'"', b"[" + written + b"]"))
    target[mark] = 0
    key = json.dumps(name).encode()
    if how == 2:
        key = chance.choice((b'"' + b"k" * 300 + b'"', b'"\\ud800"', b'""', key.upper()))
    member = key + b":" + written
    if how == 3:
        member += b"," + key + b":" + chance.choice((written, b"null", b'"other"'))
    if how == 4:
        member += b"," + chance.choice(
            (b'"crit":["x"]', b'"d":"AA"', b'"jwk":{}', b'"kid":7', b'"\\ud800":1', b'"alg":"none"')
        )
    return _write(document).replace(json.dumps(mark).encode() + b":0", member, 1)


def _write(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _objects(document: object) -> Iterator[dict[str, object]]:
    if isinstance(document, dict):
        yield document
    for item in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from _objects(item)


_Change = Callable[[bytes, Sequence[bytes], random.Random], bytes]
_CHANGES: tuple[_Change, ...] = (
    _flip, _flip, _set, _cut, _remove, _repeat, _insert, _splice, _length, _length,
    _inside_base64url, _inside_base64url, _member, _member,
)  # fmt: skip
