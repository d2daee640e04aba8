"""What the learner beside the server knows, as the commands of `limen learn` take it when no file is named."""

from __future__ import annotations

import dataclasses
from typing import Any

from learner.remembering import Memory
from learner.store import history_of, restore_page
from limen import client
from mesh.flow import Flow, flow_from_json
from mesh.problems import Invalid

_PAGE = 200
_ALL = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A server's history, how far its learner came, and the identities that it knows."""

    memory: Memory
    standing: dict[str, Any]
    identities: frozenset[str]

    @property
    def losses(self) -> tuple[str, ...]:
        """What keeps the history from being the whole of the traffic."""
        found = []
        for name, text in (
            ("lost", "{} flows were dropped before they were learned"),
            ("odd", "{} flows could not be read"),
            ("waiting", "{} flows wait to be learned"),
        ):
            if count := int(self.standing[name]):
                found.append(text.format(count))
        return tuple(found)


def known_to_server() -> Known:
    """Ask the server for everything that was learned.

    1. The standing is read before the kinds: what comes in meanwhile is in some of them, and is no harm.
    2. Kinds come page by page, each with all its sessions.
    3. People look at a server whenever they like: the numbers are those that hold at every moment (`Memory.looks`).

    Raises Invalid LM4035 when nothing was learned yet, Unavailable LM5201 without a server.
    """
    # (1)
    standing = client.call("GET", "/v1/learn")
    about = standing["history"]
    if not about:
        raise Invalid("LM4035")
    history = history_of(about)
    # (2)
    after = ""
    while page := client.call("GET", f"/v1/learn/kinds?after={after}&limit={_PAGE}"):
        after = restore_page(history, ((name, row) for name, *row in page))
    identities = frozenset(str(row["spiffe_id"]) for row in client.call("GET", "/v1/identities"))
    # (3)
    return Known(Memory(history, looks=1), standing, identities)


def flows_of_server() -> list[Flow]:
    """The flows that the server still has one by one, oldest first: for who holds a day out.

    Raises Invalid LM4035 when there are none.
    """
    rows = client.call("GET", f"/v1/flows?limit={_ALL}")
    if not rows:
        raise Invalid("LM4035")
    return [flow_from_json(row) for row in rows]
