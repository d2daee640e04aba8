"""The physical limit beside a measurement: what `openssl speed` says of ECDSA P-256 here and now, by CPU time.

A budget of so many a second was set on one machine. Beside the verdict on that number stands the one on the share of
the physical limit that it was there (docs/adr/0035-budgets-elsewhere.md); neither takes the place of the other.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence

_LINE = re.compile(r"256 bits ecdsa \(nistp256\).*?\s([0-9.]+)\s+([0-9.]+)\s*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """Signatures made and verified a second by one core."""

    sign: float
    verify: float

    @property
    def both(self) -> float:
        """How many a second are made and verified."""
        return 1 / (1 / self.sign + 1 / self.verify)


SET_ON = Limit(51_800, 16_700)
"""What `openssl speed` said where the budgets were set."""


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """So many a second, of things that take a signature and, with ``verifies``, its verification."""

    name: str
    per_s: int
    verifies: bool

    def of(self, limit: Limit) -> float:
        """How many a second the curve alone allows."""
        return limit.both if self.verifies else limit.sign

    @property
    def share(self) -> float:
        """The part of what the curve alone allows that the budget was where it was set."""
        return self.per_s / self.of(SET_ON)

    def judge(self, rates: Sequence[float], limits: Sequence[Limit]) -> dict[str, object]:
        """What several rounds say of it, by their medians; ``limits`` are of the same rounds, or none at all."""
        per_s = statistics.median(rates)
        found: dict[str, object] = {
            "per_s": round(per_s),
            "best_per_s": round(max(rates)),
            "budget_per_s": self.per_s,
            "met": per_s >= self.per_s,
        }
        if limits:
            share = statistics.median(rate / self.of(limit) for rate, limit in zip(rates, limits, strict=True))
            found |= {"share": round(share, 3), "budget_share": round(self.share, 3), "share_met": share >= self.share}
        return found


def verdict(name: str, found: Mapping[str, object]) -> str:
    """Both verdicts of `Budget.judge`, on two lines: a miss is called one, whatever the other says."""
    lines = [f"{name}: {found['per_s']:,}/s of {found['budget_per_s']:,}/s: {_word(found['met'])}"]
    if "share" in found:
        lines.append(
            f"{name}, share of `openssl speed` in the same round: {found['share']} of {found['budget_share']}: "
            f"{_word(found['share_met'])}"
        )
    return "\n".join(lines)


def _word(is_met: object) -> str:
    return "met" if is_met else "MISSED"


def openssl_speed(seconds: int = 1) -> Limit | None:
    """Ask OpenSSL's program; None when it is not there."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-seconds", str(seconds), "ecdsap256"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _LINE.search(done.stdout)
    return None if found is None else Limit(float(found[1]), float(found[2]))


def save(name: str, found: Mapping[str, object]) -> None:
    """Write a result beside the others."""
    path = pathlib.Path(__file__).parent / "results" / f"{name}.json"
    facts = {"python": platform.python_version(), **found}
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    print(f"written to {path.relative_to(path.parent.parent.parent)}")
