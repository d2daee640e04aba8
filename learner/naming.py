"""Names for what a proposal writes: services, rules and owners after their identities. Deterministic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mesh.spiffe import SpiffeId


def service_names(identities: Sequence[str] | Mapping[str, object], taken: Sequence[str] = ()) -> dict[str, str]:
    """Name services after the last segment of their identity, with what comes before where that is not enough.

    Names in ``taken`` are not given again.
    """
    names: dict[str, str] = {}
    used = set(taken)
    segments = {identity: SpiffeId.parse(identity).segments for identity in identities}
    last = Counter(found[-1].lower() for found in segments.values())
    for identity in sorted(segments):
        parts = segments[identity]
        name = plain_name(parts[-1])
        if last[parts[-1].lower()] > 1 or name in used:
            namespace = parts[1] if len(parts) > 2 and parts[0] == "ns" else "-".join(parts[:-1]) or "root"
            name = plain_name(f"{namespace}-{parts[-1]}")
        candidate, number = name, 2
        while candidate in used:
            candidate, number = f"{name}-{number}", number + 1
        names[identity] = candidate
        used.add(candidate)
    return names


def plain_name(text: str) -> str:
    """A name as policies allow it: lower case, digits, dots and dashes, not at the ends."""
    found = "".join(c if c.isalnum() or c in "-." else "-" for c in text.lower()).strip("-.")
    return found or "service"


def owner_of(identity: str) -> str:
    """The team of a namespace, `unowned` for an identity without one."""
    parts = SpiffeId.parse(identity).segments
    return f"team-{plain_name(parts[1])}" if len(parts) > 2 and parts[0] == "ns" else "unowned"
