"""What a reader saw, left out and never got: one account per input, so that claims can be lowered by it.

Readers write into a `Ledger` while they read; whoever makes claims reads it afterwards. A record that was left out
is in it by its reason, whatever the reason. It does no I/O.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

MAX_REASONS = 64
MAX_EXAMPLES = 20
OTHER_REASONS = "other reasons"


@dataclasses.dataclass(slots=True, kw_only=True)
class Ledger:
    """The account of one input.

    ``seen`` counts records (packets, lines, spans) that were looked at, ``flows`` what became of them, ``skipped``
    what was left out, by reason. ``unreadable`` of those are broken: the others were understood and speak of
    something else. ``sampled`` is n where the source keeps one of n, 0 where it samples and does not say how;
    ``lost`` counts records that the source says it dropped, ``gaps`` windows in which it saw nothing. ``cut``
    counts packets whose headers the snap length cut off, ``ambiguous`` conversations whose direction is not known
    (with examples).
    """

    file: str
    source: str
    seen: int = 0
    flows: int = 0
    unreadable: int = 0
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    sampled: int = 1
    lost: int = 0
    gaps: int = 0
    cut: int = 0
    ambiguous: int = 0
    ambiguous_examples: list[str] = dataclasses.field(default_factory=list)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count what was left out; the reasons are bounded, since some of them quote the input."""
        if reason not in self.skipped and len(self.skipped) >= MAX_REASONS:
            reason = OTHER_REASONS
        self.skipped[reason] += count

    def mark_ambiguous(self, example: str) -> None:
        """Count a conversation of which nobody knows who began it."""
        self.ambiguous += 1
        if len(self.ambiguous_examples) < MAX_EXAMPLES:
            self.ambiguous_examples.append(example)

    def mark_sampled(self, one_in: int) -> None:
        """The source keeps one of so many (0: of how many is not said); the worst that was said stays."""
        if one_in == 0 or self.sampled == 0:
            self.sampled = 0
        else:
            self.sampled = max(self.sampled, one_in)

    @property
    def is_complete(self) -> bool:
        """Whether nothing that bears on what is learned was sampled, lost, cut or unreadable."""
        return self.sampled == 1 and not (self.lost or self.gaps or self.cut or self.unreadable or self.ambiguous)

    def limits(self) -> list[str]:
        """What keeps the input from being the whole of the traffic, each as one sentence; empty when it is whole."""
        out = []
        if self.sampled == 0:
            out.append("it is sampled, and does not say at which rate: bounds hold for the sampled traffic alone")
        elif self.sampled > 1:
            out.append(f"it keeps one of {self.sampled}: bounds hold for the sampled traffic alone")
        if self.lost:
            out.append(f"{self.lost} records were lost before they were written")
        if self.gaps:
            out.append(f"{self.gaps} windows of time hold no data")
        if self.cut:
            out.append(f"{self.cut} packets were cut within their headers")
        if self.unreadable:
            out.append(f"{self.unreadable} of {self.seen} records could not be read")
        if self.ambiguous:
            out.append(f"{self.ambiguous} conversations have no known direction")
        return out

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "file": self.file,
            "source": self.source,
            "seen": self.seen,
            "flows": self.flows,
            "unreadable": self.unreadable,
            "skipped": dict(sorted(self.skipped.items())),
            "sampled": self.sampled,
            "lost": self.lost,
            "gaps": self.gaps,
            "cut": self.cut,
            "ambiguous": self.ambiguous,
            "ambiguous_examples": list(self.ambiguous_examples),
        }
