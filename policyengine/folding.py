"""Folds rows of a plan that one rule causes: a deny that meets a thousand allows is one row, not a thousand.

Such rows share a rule among their reasons and name another one each: the allow that is undone. One edit made all of
them, so they are read as one, which names under `by_source` whom it speaks of, each with whatever is its own: methods,
paths, circumstances, reasons. Rows that share no rule stay apart: each of them is an edit of its own. This module
decides nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

Because = tuple[str, ...]
_DOMAIN = 2  # `spiffe:`, nothing, then the trust domain
_HOSTS = ("hosts", "host_not_in")
"""What is read together: of the names that hold a host, the narrowest of both says whether it is meant."""


class Words(NamedTuple):
    """What a row says."""

    source: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: dict[str, object]
    because: Because


def sharing(keys: Sequence[Hashable], reasons: Sequence[Because], many: int) -> list[list[int]]:
    """Which rows are folded together: of one key, where more than ``many`` different reasons share a rule.

    A row goes with the rule that most others share with it; no row is in two groups.
    """
    by_key: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        by_key.setdefault(key, []).append(place)
    out: list[list[int]] = []
    for own in by_key.values():
        left = own
        while True:
            different: dict[str, set[Because]] = {}
            for place in left:
                for name in reasons[place]:
                    different.setdefault(name, set()).add(reasons[place])
            # the first of those that are shared alike: what decides now stands before what decided
            most = max(different, key=lambda name: len(different[name]), default=None)
            if most is None or len(different[most]) <= many:
                break
            out.append([place for place in left if most in reasons[place]])
            left = [place for place in left if most not in reasons[place]]
    return out


def folded(rows: Sequence[Words]) -> Words:
    """One row that speaks of exactly what all of them speak of, and names the reasons that they share."""
    rows = sorted(rows, key=lambda row: (row.source, row.because, row.paths, row.methods))
    first = rows[0]
    because = tuple(name for name in first.because if all(name in row.because for row in rows))
    own: list[dict[str, object]] = [{"source": row.source} for row in rows]
    methods, paths = first.methods, first.paths
    if any(row.methods != methods for row in rows):
        methods = tuple(sorted({name for row in rows for name in row.methods}))
        methods = ("*",) if "*" in methods else methods
        for said, row in zip(own, rows, strict=True):
            said["methods"] = list(row.methods)
    if any(row.paths != paths for row in rows):
        paths = tuple(sorted({text for row in rows for text in row.paths}))
        for said, row in zip(own, rows, strict=True):
            said["paths"] = list(row.paths)
    shared = {name: value for name, value in first.when.items() if _is_shared(name, rows)}
    for said, row in zip(own, rows, strict=True):
        said.update({name: value for name, value in row.when.items() if name not in shared})
        said["because"] = [name for name in row.because if name not in because]
    names = {row.source for row in rows}
    source = first.source if len(names) == 1 else enclosing([row.source for row in rows])
    return Words(source, methods, paths, {**shared, "by_source": own}, because)


def _is_shared(name: str, rows: Sequence[Words]) -> bool:
    """Whether all rows say the same under a name of `when`, and under those that are read with it."""
    together = _HOSTS if name in _HOSTS else (name,)
    return all(row.when.get(other) == rows[0].when.get(other) for row in rows for other in together)


def enclosing(names: Sequence[str]) -> str:
    """The narrowest pattern that holds all of some patterns: a subtree, or `any`."""
    shared: list[str] | None = None
    for name in names:
        # of an identity what is above it, of a subtree its root
        parts = name.removesuffix("/**").split("/") if name.endswith("/**") else name.split("/")[:-1]
        if shared is None:
            shared = parts
        else:
            same = (one == other for one, other in zip(shared, parts, strict=False))
            shared = shared[: sum(itertools.takewhile(bool, same))]
    return "/".join(shared) + "/**" if shared is not None and len(shared) > _DOMAIN else "any"
