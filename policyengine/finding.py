"""The parts of regions in which something holds, looked for once in all regions that are alike.

Regions of one family (`policyengine.likeness`) have one diagram, but for the names in its leaves and the literals in
its paths: ten thousand rules of as many callers may be ten diagrams. What is found in the first region of a family is
said of every other one with the names of its own grants, slot by slot; its paths are renamed where rows are made.
Nothing here decides, and nothing here knows words.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mesh.request import Effect
from policyengine.atoms import TooLarge
from policyengine.cover import Shapes
from policyengine.diagram import Builder, Leaf, Verdict
from policyengine.folding import Because
from policyengine.products import Part, parts_of
from policyengine.regions import Region
from policyengine.rows import Difference

Verdicts = tuple[Verdict, ...]
Key = Callable[[Verdicts], tuple[Effect, Because] | None]
"""What a leaf is looked for by: what happens there and why, or None. It asks of grants nothing but their names."""


class _Found(NamedTuple):
    """A part, and the verdicts of one of its leaves with the slots of the grants that decide."""

    part: Part
    verdicts: Verdicts
    slots: tuple[int | None, ...]


class Finder:
    """Finds the parts of regions that were cut together whose leaves have a key."""

    def __init__(self, now: dt.datetime, key: Key) -> None:
        self._now, self._key = now, key
        self._found: dict[int, list[_Found] | None] = {}

    def differences_in(self, region: Region) -> list[tuple[Effect, Difference]]:
        """The parts of a region, each with what happens there.

        Raises TooLarge.
        """
        if region.likeness.family not in self._found:
            try:
                self._found[region.likeness.family] = self._look(region)
            except TooLarge:
                self._found[region.likeness.family] = None
        found = self._found[region.likeness.family]
        if found is None:
            raise TooLarge
        return [self._said(part, region) for part in found]

    def _look(self, region: Region) -> list[_Found]:
        builder = Builder(region, self._now)
        shapes = Shapes(builder.variables)
        slots = {id(spoken.grant): spoken.slot for spoken in region.spoken}
        leaves: dict[object, Leaf] = {}

        def key(leaf: Leaf) -> object:
            own = self._key(leaf.verdicts)
            if own is not None:
                leaves.setdefault(own, leaf)
            return own

        out: list[_Found] = []
        for axes in region.ports:
            for own, operations in parts_of(builder.tree(axes), axes, shapes, key).items():
                verdicts = leaves[own].verdicts
                part = Part(axes=axes, shapes=shapes, operations=operations, origin=region.likeness)
                out.append(_Found(part, verdicts, tuple(_slot(found, slots) for found in verdicts)))
        return out

    def _said(self, found: _Found, region: Region) -> tuple[Effect, Difference]:
        """What was found, with the names of a region's own grants."""
        own = self._key(
            tuple(
                verdict
                if slot is None
                else Verdict(
                    effect=verdict.effect,
                    policy_effect=verdict.policy_effect,
                    grant=region.spoken[slot].grant,
                    is_observed=verdict.is_observed,
                )
                for verdict, slot in zip(found.verdicts, found.slots, strict=True)
            )
        )
        assert own is not None, "a key does not hang on names"
        effect, because = own
        return effect, Difference(region=region, because=because, part=found.part)


def _slot(verdict: Verdict, slots: Mapping[int, int]) -> int | None:
    return None if verdict.grant is None else slots[id(verdict.grant)]
