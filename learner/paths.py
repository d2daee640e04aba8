"""Path templates from paths that were answered well: which segments are parameters, and of which type.

A segment becomes a parameter for a reason that is kept: two values of one type at one place, or so many different
values, so few of them repeated, that the next value is likely to be new. A segment that is ambiguous is never
templated. Attack by garbage does not reach this module: only answers below 400 do.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from learner.bounds import wilson_lower
from policyengine.canonical import SEGMENT_TYPES, Ambiguous, canonical_path, literal_text

MIN_TYPED = 2
MIN_DISTINCT = 8
SURE_DISTINCT = 24
MIN_SINGLES_SHARE = 0.03
_ORDER = ("uuid", "date", "ulid", "int", "decimal", "hex", "token")
_HEX = re.compile(r"(?=.*[0-9])(?=.*[a-fA-F])[0-9A-Fa-f]{8,}\Z")
_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_-]{20,}\Z")

Segments = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """Why a segment is a parameter: its type (empty for free text), how many values, how many seen once, examples."""

    type: str
    distinct: int
    singles: int
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """The templates of one destination, port and method, and the path each of them stands for."""

    of: Mapping[str, str]
    folds: Mapping[str, tuple[Fold, ...]]

    def template(self, path: str) -> str | None:
        """The template that a raw path belongs to, None for one that was not learned."""
        found = canonical_path(path)
        return None if isinstance(found, Ambiguous) else self.of.get(found.text)


def segment_type(segment: str) -> str:
    """The narrowest type of a segment, empty for plain words."""
    if len(segment) < 20:
        # nearly all of them: every type that short has a digit, and digits alone are an `int`
        if segment.isalpha():
            return ""
        if segment.isdigit() and segment.isascii():
            return "int"
    return _checked_type(segment)


def _checked_type(segment: str) -> str:
    for name in _ORDER:
        if name == "hex":
            if _HEX.match(segment):
                return name
        elif name == "token":
            if _TOKEN.match(segment):
                return name
        elif name == "decimal":
            if "." in segment and SEGMENT_TYPES[name].fullmatch(segment):
                return name
        elif SEGMENT_TYPES[name].fullmatch(segment):
            return name
    return ""


def learn_templates(paths: Iterable[str]) -> Templates:
    """Learn the templates of the paths of one destination, port and method, one path per good answer.

    1. Each path is brought into its canonical form; an ambiguous one is left out and never templated.
    2. Place by place, from the left: values of one type, at least two, become a typed parameter.
    3. What is left becomes a free parameter only by the open-or-closed test (`_is_open`), else it stays literal.
    """
    return learn_counted(Counter(paths))


def learn_counted(paths: Mapping[str, int]) -> Templates:
    """Learn the templates of paths of which each was answered well so many times."""
    counts: Counter[str] = Counter()
    segments: dict[str, Segments] = {}
    for raw, number in paths.items():
        # (1)
        found = canonical_path(raw)
        if not isinstance(found, Ambiguous):
            counts[found.text] += number
            segments[found.text] = found.segments
    of: dict[str, str] = {}
    folds: dict[str, tuple[Fold, ...]] = {}
    by_length: defaultdict[int, list[str]] = defaultdict(list)
    for text, found_segments in segments.items():
        by_length[len(found_segments)].append(text)
    for texts in by_length.values():
        _walk(texts, segments, counts, 0, (), (), of, folds)
    return Templates(of=of, folds=folds)


def _walk(
    texts: list[str],
    segments: Mapping[str, Segments],
    counts: Counter[str],
    depth: int,
    prefix: tuple[str, ...],
    why: tuple[Fold, ...],
    of: dict[str, str],
    folds: dict[str, tuple[Fold, ...]],
) -> None:
    """Steps 2 and 3 at one place; all texts have one template up to here."""
    if depth == len(segments[texts[0]]):
        template = "/" + "/".join(prefix)
        folds[template] = why
        for text in texts:
            of[text] = template
        return
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for text in texts:
        groups[segments[text][depth]].append(text)
    for part, name, fold in _partition(groups, segments, counts, depth):
        parameter = name if fold is None else _parameter(prefix, fold.type)
        _walk(part, segments, counts, depth + 1, (*prefix, parameter), why if fold is None else (*why, fold), of, folds)


def _partition(
    groups: Mapping[str, list[str]], segments: Mapping[str, Segments], counts: Counter[str], depth: int
) -> Iterable[tuple[list[str], str, Fold | None]]:
    """The parts of a place: typed folds, a free fold, and literals."""
    typed: defaultdict[str, list[str]] = defaultdict(list)
    for value in groups:
        typed[segment_type(value)].append(value)
    for name, values in sorted(typed.items()):
        if name and len(values) >= MIN_TYPED:
            # (2)
            yield _joined(values, groups), "", _fold(name, values, groups, counts)
        elif not name and _is_open(values, groups, segments, counts, depth):
            # (3)
            yield _joined(values, groups), "", _fold("", values, groups, counts)
        else:
            for value in sorted(values):
                yield groups[value], literal_text(value), None


def _joined(values: Iterable[str], groups: Mapping[str, list[str]]) -> list[str]:
    return [text for value in values for text in groups[value]]


def _fold(name: str, values: list[str], groups: Mapping[str, list[str]], counts: Counter[str]) -> Fold:
    visits = {value: sum(counts[text] for text in groups[value]) for value in values}
    singles = sum(1 for count in visits.values() if count == 1)
    return Fold(name, len(values), singles, tuple(sorted(values)[:3]))


def _is_open(
    values: list[str],
    groups: Mapping[str, list[str]],
    segments: Mapping[str, Segments],
    counts: Counter[str],
    depth: int,
) -> bool:
    """The open-or-closed test for words.

    ALL of: at least 8 different ones; the share seen once is surely above 3 %, or there are at least 24; more than half
    continue in the same way. The same statistic that bounds the missing mass decides that more are to be expected.
    """
    distinct = len(values)
    if distinct < MIN_DISTINCT:
        return False
    visits = [sum(counts[text] for text in groups[value]) for value in values]
    singles = sum(1 for count in visits if count == 1)
    if wilson_lower(singles, sum(visits)) <= MIN_SINGLES_SHARE and distinct < SURE_DISTINCT:
        return False
    shapes = Counter(
        tuple(
            sorted(
                {"/".join(segment_type(item) or item for item in segments[text][depth + 1 :]) for text in groups[value]}
            )
        )
        for value in values
    )
    return shapes.most_common(1)[0][1] * 2 > distinct


def _parameter(prefix: tuple[str, ...], name: str) -> str:
    used = sum(part.startswith("{") for part in prefix)
    label = "id" if used == 0 else f"id{used + 1}"
    return f"{{{label}:{name}}}" if name else f"{{{label}}}"
