"""What the server knows of its agents: their listeners and what they apply. In memory: agents report it again.

Plain state with no I/O; `limen.app` calls it on its one thread.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

from limen.values import Endpoint

# an agent that fell is started again within that time, and its sidecars serve meanwhile
AWAY = dt.timedelta(seconds=30)
# how long after a start, or the return of an agent, listeners may not have been reported again; and all of it
SETTLING = dt.timedelta(seconds=10)
LONGEST_SETTLING = dt.timedelta(seconds=60)


@dataclasses.dataclass(slots=True, kw_only=True)
class Agent:
    """One agent, as it last reported itself. ``until`` is how long it counts without a connection."""

    node: str
    endpoints: tuple[Endpoint, ...] = ()
    watches: int = 0
    epoch: int = 0
    trust: int = 0
    snapshot: str = ""
    sidecars: int = 0
    handshakes: int = 0
    refusals: tuple[tuple[str, str], ...] = ()
    until: dt.datetime | None = None

    @property
    def is_live(self) -> bool:
        """Whether its sidecars count: it is connected, or was a moment ago."""
        return self.watches > 0 or self.until is not None


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

    def live(self) -> list[Agent]:
        """The agents whose sidecars count, by name."""
        return [found for found in self.all() if found.is_live]

    def begin(self, node: str) -> None:
        """An agent connected."""
        agent = self.of(node)
        agent.watches += 1
        agent.until = None

    def end(self, node: str, now: dt.datetime) -> None:
        """An agent's connection ended; one that has sidecars counts for a while."""
        agent = self.of(node)
        agent.watches -= 1
        if agent.sidecars:
            self.expect(node, now)

    def listens(self, node: str, endpoints: tuple[Endpoint, ...]) -> bool:
        """Take an agent's listeners, in full; whether they are others than before."""
        agent = self.of(node)
        before, agent.endpoints = agent.endpoints, endpoints
        return before != endpoints

    def expect(self, node: str, now: dt.datetime) -> None:
        """Count an agent that is not connected for a while: it fell, or this server did."""
        agent = self.of(node)
        if not agent.watches:
            agent.until = now + AWAY

    def expect_all(self, nodes: Iterable[str], now: dt.datetime) -> None:
        """Count agents that a server knew before it fell: what they and their sidecars hold, they will say."""
        for node in nodes:
            self.expect(node, now)

    def dismiss(self, node: str) -> None:
        """Let nothing of an agent count, now and when its connection ends."""
        agent = self.of(node)
        agent.sidecars, agent.until, agent.endpoints = 0, None, ()

    def forget(self, now: dt.datetime) -> bool:
        """Count those no longer that did not come back in time; whether there was any."""
        gone = [found for found in self._agents.values() if found.until is not None and now >= found.until]
        for found in gone:
            found.until = None
        return any(not found.watches for found in gone)

    def are_awaited(self) -> bool:
        """Whether some agent counts that is not connected."""
        return any(not found.watches and found.until is not None for found in self._agents.values())

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every listener of agents that count."""
        found = {item for agent in self._agents.values() if agent.is_live for item in agent.endpoints}
        return tuple(sorted(found, key=lambda item: (item.spiffe_id, item.address, item.port)))

    def show(self, epoch: int) -> list[dict[str, object]]:
        """All agents for people, by name; those that apply an epoch are current."""
        return [
            {
                "node": item.node,
                "is_connected": item.watches > 0,
                "epoch": item.epoch,
                "snapshot": item.snapshot,
                "sidecars": item.sidecars,
                "is_current": item.watches > 0 and item.epoch == epoch,
                "refusals": [list(row) for row in item.refusals],
            }
            for item in self.all()
        ]


class Start:
    """A server's start: until it is over, agents may know listeners that it does not know yet."""

    def __init__(self, now: dt.datetime) -> None:
        self._until, self._at_most = now + SETTLING, now + LONGEST_SETTLING

    def returned(self, now: dt.datetime) -> None:
        """An agent connected: it reports its listeners next."""
        self._until = min(max(self._until, now + SETTLING), self._at_most)

    def is_over(self, agents: Agents, now: dt.datetime) -> bool:
        """Whether agents that were known have come back and had time to report, or did not in time."""
        return now >= self._at_most or (now >= self._until and not agents.are_awaited())
