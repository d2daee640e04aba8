"""What the server knows of its agents: their listeners and what they apply. In memory: agents report it again.

Plain state with no I/O; `limen.app` calls it on its one thread.
"""

from __future__ import annotations

import dataclasses

from limen.values import Endpoint


@dataclasses.dataclass(slots=True, kw_only=True)
class Agent:
    """One agent, as it last reported itself."""

    node: str
    endpoints: tuple[Endpoint, ...] = ()
    watches: int = 0
    epoch: int = 0
    trust: int = 0
    snapshot: str = ""
    sidecars: int = 0
    handshakes: int = 0
    refusals: tuple[tuple[str, str], ...] = ()


class Agents:
    """All agents that were heard since the server began."""

    def __init__(self) -> None:
        self._agents: dict[str, Agent] = {}

    def of(self, node: str) -> Agent:
        """The agent of a node."""
        return self._agents.setdefault(node, Agent(node=node))

    def all(self) -> list[Agent]:
        """All agents by name."""
        return sorted(self._agents.values(), key=lambda found: found.node)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every listener of agents that are connected."""
        found = {item for agent in self._agents.values() if agent.watches for item in agent.endpoints}
        return tuple(sorted(found, key=lambda item: (item.spiffe_id, item.address, item.port)))
