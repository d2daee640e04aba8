"""The published cases of Merkle proofs, re-typed: transparency-dev/merkle `testdata/`, four of each kind.

Each is what holds; every other case there is one of these with one thing changed, by the rules that the names of those
files say. They are made here by the same rules, and each of them has to be refused.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Iterator


def _hashes(*texts: str) -> tuple[bytes, ...]:
    return tuple(map(base64.b64decode, texts))


_1, _2, _3, _5, _6, _7, _8 = _hashes(
    "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
    "+sVCA+fMaWzw38tCySodnbr3CtnmIfS9jZhmLwDjwSU=",
    "rra8/idLcKFPsGel5VeCZNsPqbUa9eC6FZFY8yngbnc=",
    "Tju7H3tHjc/nH7YxYxUZo7yhLJrvyhYSv85ME6hiZNQ=",
    "duZ9rbzfHhDht03cYIq9L5jfsW+851J3tSMqEn8gh+8=",
    "3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=",
    "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=",
)
_OF_1, _OF_2_3, _OF_4_7, _LEAF_4, _OF_6_7, _OF_0_3, _OF_4_5, _LEAF_6 = _hashes(
    "lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c=",
    "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
    "a0eq8p7jwq+a+Im8H7klTavTEXfxYjLdaqsDXKOb9uQ=",
    "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
    "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
    "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
    "DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=",
    "sIaT7C5yFZcTBkHoIR5+7cy0wmQTlj7ubB4u0W/7Gl8=",
)
_LEAF_5, _LEAF_2 = _hashes(
    "QnGia+DYqE8L1UyMMC58s6O10fpngKQLzOKHNHfatlg=", "ApjRIpBtz8EIkstTpzmS/FufST6kybrbJ7eRtBJ6f+c="
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inclusion:
    index: int
    size: int
    root: bytes
    leaf: bytes
    proof: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency:
    old: int
    new: int
    old_root: bytes
    new_root: bytes
    proof: tuple[bytes, ...]


INCLUSION = (
    Inclusion(index=0, size=8, root=_8, leaf=_1, proof=(_OF_1, _OF_2_3, _OF_4_7)),
    Inclusion(index=5, size=8, root=_8, leaf=_LEAF_5, proof=(_LEAF_4, _OF_6_7, _OF_0_3)),
    Inclusion(index=2, size=3, root=_3, leaf=_LEAF_2, proof=(_2,)),
    Inclusion(index=1, size=5, root=_5, leaf=_OF_1, proof=(_1, _OF_2_3, _LEAF_4)),
)
CONSISTENCY = (
    Consistency(old=1, new=8, old_root=_1, new_root=_8, proof=(_OF_1, _OF_2_3, _OF_4_7)),
    Consistency(old=6, new=8, old_root=_6, new_root=_8, proof=(_OF_4_5, _OF_6_7, _OF_0_3)),
    Consistency(old=2, new=5, old_root=_2, new_root=_5, proof=(_OF_2_3, _LEAF_4)),
    Consistency(old=6, new=7, old_root=_6, new_root=_7, proof=(_OF_4_5, _LEAF_6, _OF_0_3)),
)
_GARBAGE = b"garbage"
_OTHER = hashlib.sha256(b"another root").digest()


def _flipped(proof: tuple[bytes, ...], place: int, bit: int) -> tuple[bytes, ...]:
    found = proof[place]
    return (*proof[:place], bytes([found[0] ^ 1 << bit]) + found[1:], *proof[place + 1 :])


def wrong_inclusion(good: Inclusion) -> Iterator[tuple[str, Inclusion]]:
    """What is published beside a proof of inclusion that holds, and must not."""
    proof, change = good.proof, dataclasses.replace
    yield "leafIdx - 1", change(good, index=good.index - 1)
    yield "leafIdx + 1", change(good, index=good.index + 1)
    yield "leafIdx ^ 2", change(good, index=good.index ^ 2)
    yield "treeSize * 2", change(good, size=good.size * 2)
    yield "treeSize / 2", change(good, size=good.size // 2)
    yield "wrong leaf", change(good, leaf=_OTHER)
    yield "empty root", change(good, root=b"")
    yield "random root", change(good, root=_OTHER)
    for place in range(len(proof)):
        yield f"modified proof[{place}] bit 3", change(good, proof=_flipped(proof, place, 3))
    yield "removed component", change(good, proof=proof[:-1])
    yield "inserted component", change(good, proof=(proof[0], *proof))
    yield "preceding garbage", change(good, proof=(_GARBAGE, *proof))
    yield "preceding root", change(good, proof=(good.root, *proof))
    yield "trailing garbage", change(good, proof=(*proof, _GARBAGE))
    yield "trailing root", change(good, proof=(*proof, good.root))


def wrong_consistency(good: Consistency) -> Iterator[tuple[str, Consistency]]:
    """What is published beside a proof of consistency that holds, and must not."""
    proof, change = good.proof, dataclasses.replace
    yield "size1 - 1", change(good, old=good.old - 1)
    yield "size1 + 1", change(good, old=good.old + 1)
    yield "size1 ^ 2", change(good, old=good.old ^ 2)
    yield "size2 * 2", change(good, new=good.new * 2)
    yield "size2 / 2", change(good, new=good.new // 2)
    yield "wrong root1", change(good, old_root=_OTHER)
    yield "wrong root2", change(good, new_root=_OTHER)
    yield "swapped roots", change(good, old_root=good.new_root, new_root=good.old_root)
    yield "empty proof", change(good, proof=())
    for place in range(len(proof)):
        yield f"modified proof[{place}] bit 4", change(good, proof=_flipped(proof, place, 4))
    yield "truncated proof", change(good, proof=proof[:-1])
    for name, found in (
        ("garbage", _GARBAGE),
        ("root1", good.old_root),
        ("root2", good.new_root),
        ("proof[0]", proof[0]),
    ):
        yield f"preceding {name}", change(good, proof=(found, *proof))
        if name != "proof[0]":
            yield f"trailing {name}", change(good, proof=(*proof, found))
