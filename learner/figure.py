"""Figures as SVG: how coverage grew day by day, and the learned graph of who calls whom. Text in, text out.

Nothing is told by colour alone: lines differ by dash and carry their names, quarantined edges are dashed and listed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from learner.coverage import Unit
from learner.history import moment

_DAY_S = 86_400
_FONT = "font-family='system-ui, sans-serif'"
_STYLE = """<style>
  .bg{fill:#fff}.ink{fill:#1b1f24}.dim{fill:#5b6570}.grid{stroke:#d8dee4}.a{stroke:#0b5cad}.b{stroke:#9a4d00}
  .fa{fill:#0b5cad}.fb{fill:#9a4d00}.node{fill:#f3f6f9;stroke:#5b6570}.edge{stroke:#5b6570}.bad{stroke:#b3261e}
  @media (prefers-color-scheme: dark){.bg{fill:#14181d}.ink{fill:#e6eaee}.dim{fill:#a3adb8}.grid{stroke:#333b44}
  .a{stroke:#6cb2f5}.b{stroke:#f0a45d}.fa{fill:#6cb2f5}.fb{fill:#f0a45d}.node{fill:#20262d;stroke:#a3adb8}
  .edge{stroke:#a3adb8}.bad{stroke:#ff8a80}}
</style>"""
MAX_NODES = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """A day: its sessions, how many of them were covered by what was known before it, and the kinds known after it."""

    number: int
    sessions: int
    covered: int
    kinds: int


@dataclasses.dataclass(frozen=True, slots=True)
class Arrow:
    """An edge of the graph; one that is quarantined is not proposed."""

    source: str
    target: str
    label: str
    is_quarantined: bool = False


def days_of(units: Sequence[Unit]) -> list[Day]:
    """Coverage day by day: what is denied, and what was first answered well on this day or later, is not covered."""
    learned: dict[tuple[str, ...], float] = {}
    for unit in units:
        learned[unit.atom] = min(learned.get(unit.atom, float("inf")), unit.kind.first_good)
    sessions: defaultdict[int, int] = defaultdict(int)
    covered: defaultdict[int, int] = defaultdict(int)
    for unit in units:
        for minute, count in unit.kind.sessions.items():
            day = minute // 1440
            sessions[day] += count
            if not unit.is_denied and learned[unit.atom] < day * _DAY_S:
                covered[day] += count
    if not sessions:
        return []
    found = []
    for day in range(min(sessions), max(sessions) + 1):
        kinds = sum(at < (day + 1) * _DAY_S for at in learned.values())
        found.append(Day(day, sessions[day], covered[day], kinds))
    return found


def coverage_svg(days: Sequence[Day], title: str) -> str:
    """The share of each day's sessions that was covered beforehand, and how many kinds were known."""
    width, height, left, right, top, bottom = 860, 420, 64, 64, 56, 64
    inner_w, inner_h = width - left - right, height - top - bottom
    most = max([day.kinds for day in days] or [1]) or 1

    def x(index: int) -> float:
        return left + (inner_w * index / (len(days) - 1) if len(days) > 1 else inner_w / 2)

    def y(share: float) -> float:
        return top + inner_h * (1 - share)

    out = [_head(width, height, title)]
    for step in range(5):
        share = step / 4
        out.append(f"<line class='grid' x1='{left}' x2='{width - right}' y1='{y(share):.1f}' y2='{y(share):.1f}'/>")
        out.append(_text(left - 8, y(share) + 4, f"{share:.0%}", "fa", anchor="end"))
        out.append(_text(width - right + 8, y(share) + 4, f"{share * most:.0f}", "fb"))
    every = max(1, -(-len(days) // 10))
    for index, day in enumerate(days):
        if index % every == 0:
            out.append(
                _text(x(index), height - bottom + 20, f"{moment(day.number * _DAY_S):%m-%d}", "dim", anchor="middle")
            )
    shares = [(x(index), y(day.covered / day.sessions)) for index, day in enumerate(days) if day.sessions]
    kinds = [(x(index), y(day.kinds / most)) for index, day in enumerate(days)]
    out += [_line(kinds, "b", "6 4"), _line(shares, "a", "")]
    out += [f"<circle class='fa' cx='{at:.1f}' cy='{to:.1f}' r='3'/>" for at, to in shares]
    out.append(_text(left, height - 14, "— sessions covered by what was known before the day (left)", "fa"))
    out.append(_text(width - right, height - 14, "- - kinds known (right)", "fb", anchor="end"))
    return "\n".join([*out, "</svg>"]) + "\n"


def graph_svg(arrows: Sequence[Arrow], title: str) -> str:
    """Who calls whom: callers left of what they call; quarantined edges dashed."""
    names = sorted({name for arrow in arrows for name in (arrow.source, arrow.target)})[:MAX_NODES]
    kept = [arrow for arrow in arrows if arrow.source in names and arrow.target in names]
    columns = _columns(names, kept)
    box_w, box_h, gap_x, gap_y, left, top = 190, 34, 130, 26, 72, 64
    most = max([len(column) for column in columns] or [1])
    width = max(420, left * 2 + len(columns) * box_w + max(0, len(columns) - 1) * gap_x)
    height = top + most * (box_h + gap_y) + 48
    at: dict[str, tuple[float, float]] = {}
    for place, column in enumerate(columns):
        lead = (most - len(column)) * (box_h + gap_y) / 2
        for row, name in enumerate(column):
            at[name] = left + place * (box_w + gap_x), top + lead + row * (box_h + gap_y)
    out = [_head(width, height, title)]
    out.append(
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path class='dim' d='M0 0L8 4L0 8z'/></marker></defs>"
    )
    for arrow in kept:
        (x1, y1), (x2, y2) = at[arrow.source], at[arrow.target]
        x1, y1, y2 = x1 + box_w, y1 + box_h / 2, y2 + box_h / 2
        bend = max(40.0, abs(x2 - x1) / 2) if x2 > x1 else 60.0
        dip = 0.0 if x2 > x1 else box_h * 1.6  # what goes back passes below the boxes
        style = "class='bad' stroke-dasharray='5 4'" if arrow.is_quarantined else "class='edge'"
        out.append(
            f"<path {style} fill='none' stroke-width='1.4' marker-end='url(#tip)' "
            f"d='M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1 + dip:.1f} {x2 - bend:.1f} {y2 + dip:.1f} {x2:.1f} {y2:.1f}'>"
            f"<title>{escape(f'{arrow.source} → {arrow.target} {arrow.label}')}</title></path>"
        )
    for name, (x, y) in at.items():
        short = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
        out.append(
            f"<rect class='node' x='{x:.1f}' y='{y:.1f}' width='{box_w}' height='{box_h}' rx='6'><title>"
            f"{escape(name)}</title></rect>"
        )
        out.append(_text(x + box_w / 2, y + box_h / 2 + 5, short, "ink", anchor="middle"))
    count = sum(arrow.is_quarantined for arrow in kept)
    out.append(_text(left, height - 16, f"{len(kept) - count} edges learned; {count} quarantined, dashed", "dim"))
    return "\n".join([*out, "</svg>"]) + "\n"


def _columns(names: Sequence[str], arrows: Sequence[Arrow]) -> list[list[str]]:
    """Names in columns, each right of those that call it; cycles are cut where a walk comes back."""
    calls: defaultdict[str, list[str]] = defaultdict(list)
    for arrow in arrows:
        if arrow.target not in calls[arrow.source]:
            calls[arrow.source].append(arrow.target)
    order, back = _walked(names, calls)
    depth = dict.fromkeys(names, 0)
    for name in order:
        for target in calls[name]:
            if (name, target) not in back:
                depth[target] = max(depth[target], depth[name] + 1)
    levels = sorted(set(depth.values()))
    return [[name for name in names if depth[name] == level] for level in levels]


def _walked(names: Sequence[str], calls: Mapping[str, list[str]]) -> tuple[list[str], set[tuple[str, str]]]:
    """Names so that each comes before what it calls, and the calls that come back to a name on the way."""
    called = {target for targets in calls.values() for target in targets}
    left: list[str] = []
    on_the_way: dict[str, bool] = {}
    back: set[tuple[str, str]] = set()
    for root in sorted(names, key=lambda name: (name in called, name)):
        stack = [] if root in on_the_way else [(root, iter(calls.get(root, ())))]
        on_the_way.setdefault(root, True)
        while stack:
            name, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                on_the_way[name] = False
                left.append(name)
                stack.pop()
            elif target not in on_the_way:
                on_the_way[target] = True
                stack.append((target, iter(calls.get(target, ()))))
            elif on_the_way[target]:
                back.add((name, target))
    return left[::-1], back


def _head(width: int, height: int, title: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"role='img' {_FONT} font-size='13'><title>{escape(title)}</title>{_STYLE}"
        f"<rect class='bg' width='100%' height='100%'/>{_text(24, 32, title, 'ink', size=17)}"
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", size: int = 13) -> str:
    return (
        f"<text class='{kind}' x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}'>{escape(text)}</text>"
    )


def _line(points: Sequence[tuple[float, float]], kind: str, dash: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f" stroke-dasharray='{dash}'" if dash else ""
    return f"<polyline class='{kind}' fill='none' stroke-width='2'{dashes} points='{path}'/>"
