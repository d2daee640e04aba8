"""Of which code a sidecar is: an agent that began with other code then knows which ones to put others in place of."""

from __future__ import annotations

import hashlib
import pathlib

_ROOT = pathlib.Path(__file__).parent.parent
# what a sidecar may load
_PACKAGES = ("enforcer", "mesh", "policyengine")


def build_of(root: pathlib.Path = _ROOT) -> str:
    """A digest for the code that a sidecar started now is made of: its modules' names, sizes and times."""
    found = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            stat = path.stat()
            found.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return found.hexdigest()
