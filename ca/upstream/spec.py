"""How an upstream authority is written on a command line: `own`, `offline`, or `KIND:name=value,…`. Opens nothing."""

from __future__ import annotations

import datetime as dt
import re

from mesh.problems import Invalid

# for each kind: the names that must stand there, and the names that may
_KINDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "own": (frozenset(), frozenset()),
    "offline": (frozenset(), frozenset()),
    "disk": (frozenset({"cert", "key"}), frozenset({"bundle", "passphrase", "life"})),
    "step-ca": (frozenset({"url", "root", "provisioner", "key"}), frozenset()),
    "limen": (frozenset({"url"}), frozenset({"token"})),
    "spire": (frozenset({"address", "workload-api"}), frozenset({"spiffe-id", "life"})),
}
_LIFE = re.compile(r"([1-9][0-9]{0,4})([mhd])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def parse_upstream(text: str) -> tuple[str, dict[str, str]]:
    """Read a kind and its facts.

    Raises Invalid LM1610 with the rule that the text breaks.
    """
    kind, colon, rest = text.partition(":")
    if kind not in _KINDS:
        raise Invalid("LM1610", given=text, reason=f"a kind is one of {', '.join(_KINDS)}")
    if colon and not rest:
        raise Invalid("LM1610", given=text, reason="nothing stands behind the colon")
    found: dict[str, str] = {}
    for item in rest.split(",") if rest else ():
        name, equals, value = item.partition("=")
        if not equals or not value or name in found:
            raise Invalid("LM1610", given=text, reason=f"`{item}` is not `name=value`, or stands twice")
        found[name] = value
    needed, possible = _KINDS[kind]
    if needed - set(found):
        raise Invalid("LM1610", given=text, reason=f"`{min(needed - set(found))}=` is missing")
    if set(found) - needed - possible:
        raise Invalid("LM1610", given=text, reason=f"`{min(set(found) - needed - possible)}` means nothing to {kind}")
    return kind, found


def parse_life(text: str) -> dt.timedelta:
    """Read a life such as `90d`, `12h` or `30m`. Raises Invalid LM1610."""
    found = _LIFE.match(text)
    if found is None:
        raise Invalid("LM1610", given=text, reason="a life is a number with m, h or d")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})
