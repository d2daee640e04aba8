"""Which reader a file of traffic needs: named by the user, or told from its first bytes, never guessed silently."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

from learner.sources import limen, pcap
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid

_MAGIC = (
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\x0a\x0d\x0d\x0a",
)


def read_input(path: pathlib.Path, form: str, findings: list[Diagnostic]) -> Iterator[Flow]:
    """Read the flows of a file.

    Raises Invalid LM4001 for an unreadable file, LM4007 for one that no reader knows, LM0001 for a format of later.
    """
    found = form if form != "auto" else detect(path)
    if found == "pcap":
        return pcap.read_flows(path, findings)
    if found == "limen":
        return limen.read_flows(path, findings)
    raise Invalid("LM0001", command=f"limen learn propose --format {found}")


def detect(path: pathlib.Path) -> str:
    """Tell a file's format from its first bytes.

    Raises Invalid LM4001 or LM4007.
    """
    try:
        with path.open("rb") as file:
            head = file.read(65536)
    except OSError as err:
        raise Invalid("LM4001", file=str(path), reason=err.strerror or str(err)) from err
    if head[:4] in _MAGIC:
        return "pcap"
    line = next((item for item in head.splitlines() if item.strip()), b"")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and {"start", "destination_port", "protocol"} <= set(row):
        return "limen"
    raise Invalid("LM4007", file=str(path))
