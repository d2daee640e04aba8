"""The physical limit beside a measurement: what `openssl speed` says of ECDSA P-256 here and now, by CPU time."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping

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
