"""What an attestor found out about a node, and the name that it gives the node.

A name is ``ATTESTOR.VALUE``: an attestor's name holds no dot and a join token's node has none either, so no two of them
ever give one name. VALUE is the filled template where that is plain and unmistakable, otherwise something readable and
a hash of it. This module verifies nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping

from mesh.problems import Forbidden

Facts = tuple[tuple[str, str], ...]
FIELD = re.compile(r"\{([^{}]*)\}")
MAX_FACTS, MAX_VALUE = 64, 1024
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,46}\Z")
_ONE_FIELD = re.compile(r"[^{}]*\{[^{}]*\}[^{}]*\Z")
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")
_SLUG, _HASH = 24, 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What was proved of a node: facts ``node:…``, the same key more than once where it has several values.

    ``proof_id`` names a proof that bears itself (a token), so that it is tied to one key; empty for all others.
    ``expires`` is when that one ends, Unix time.
    """

    facts: Facts
    proof_id: str = ""
    expires: int = 0


def node_name(attestor: str, template: str, facts: Facts) -> str:
    """Fill an attestor's template with facts (`{k8s-node}` is the fact `node:k8s-node`).

    1. EVERY field has exactly one value.
    2. With one field and a plain result, the result is the name; otherwise the values decide, by their hash.

    Raises Forbidden LM1259 for (1).
    """
    # (1)
    values = []
    for field in FIELD.findall(template):
        found = [value for name, value in facts if name == f"node:{field}"]
        if len(found) != 1 or not found[0]:
            raise Forbidden("LM1259", attestor=attestor, field=field, count=len(found))
        values.append(found[0])
    # (2)
    parts = iter(values)
    filled = FIELD.sub(lambda _: next(parts), template)
    if _ONE_FIELD.match(template) and _PLAIN.match(filled):
        return f"{attestor}.{filled}"
    digest = hashlib.sha256(json.dumps([template, *values]).encode()).hexdigest()[:_HASH]
    return f"{attestor}.{_OTHER.sub('-', filled)[:_SLUG]}.{digest}"


def collect(found: Mapping[str, str | list[str] | None]) -> Facts:
    """Facts from a map: empty values are left out, long ones are cut nowhere but refused.

    Raises ValueError, with a sentence, for a value that is too long, or too many of them.
    """
    facts = []
    for name, value in found.items():
        for item in value if isinstance(value, list) else [value]:
            if item:
                if len(item) > MAX_VALUE:
                    raise ValueError(f"{name} is longer than {MAX_VALUE} characters")
                facts.append((f"node:{name}", item))
    if len(facts) > MAX_FACTS:
        raise ValueError(f"it gives more than {MAX_FACTS} facts")
    return tuple(facts)
