"""Worlds of traffic whose law is known: what a proposal says about the future can be held against it.

A world has services with replicas, edges whose rates span decades, days with nights, bursts, periodic jobs and
rollouts; five attacks can be planted. All from one seed.
"""

import dataclasses
import datetime as dt
import math
import random
from collections.abc import Iterator

from learner.history import History
from learner.judge import Judge
from learner.propose import propose_from, written
from learner.risk import Proposal, Watch
from learner.schedules import Schedule
from mesh.flow import Flow

BEGIN = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
NS = "spiffe://sim.test/ns/w/sa/"
SERVICES, EDGES = 50, 300
ROLLOUT_DAY = 4
DAILY = [0.3 + 0.7 * (1 + math.sin((hour - 9) / 24 * 2 * math.pi)) for hour in range(24)]
_MEAN = sum(DAILY) / 24
DAILY = [weight / _MEAN for weight in DAILY]


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """A call of a caller: ``rate`` sessions a day, or one at ``hour`` on every ``every``-th day."""

    source: int
    target: int
    port: int
    rate: float
    every: int = 0
    hour: int = 0
    is_led: bool = False
    since: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        return f"{NS}s{self.source}", f"{NS}s{self.target}", self.port


class World:
    """A world of one seed."""

    def __init__(self, seed: int, days: int = 14, *, jobs: int = 8, rollouts: int = 4) -> None:
        self.rng = random.Random(seed)
        self.days = days
        rng = self.rng
        self.replicas = [rng.choice((1, 2, 3, 4)) for _ in range(SERVICES)]
        places: set[tuple[int, int, int]] = set()
        while len(places) < EDGES:
            source, target = rng.randrange(SERVICES), rng.randrange(SERVICES)
            if source != target:
                places.add((source, target, rng.choice((8080, 5432))))
        self.edges = [
            Edge(*place, rate=min(24.0, rng.lognormvariate(0.3, 2.0)))
            for place in sorted(places)
        ]  # fmt: skip
        for number in range(jobs):
            source, target = rng.randrange(SERVICES), rng.randrange(SERVICES)
            every = (1, 1, 1, 7, 7, 30)[number % 6]
            self.edges.append(
                Edge(source, target, 9000 + number, 0.0, every, rng.randrange(24), is_led=number % 2 == 0)
            )
        self.rolled = sorted(rng.sample(range(SERVICES), rollouts))
        for number, source in enumerate(self.rolled):
            self.edges.append(Edge(source, (source + 1) % SERVICES, 9500 + number, 6.0, since=ROLLOUT_DAY))

    def flows(self) -> Iterator[Flow]:
        for edge in self.edges:
            for second in sorted(self._starts(edge)):
                yield from self._session(edge, second)

    def _starts(self, edge: Edge) -> Iterator[float]:
        rng = self.rng
        for day in range(edge.since, self.days):
            if edge.every:
                if (day + edge.source) % edge.every == 0:
                    yield day * 86_400 + edge.hour * 3600 + rng.random() * 60
                continue
            for hour, weight in enumerate(DAILY):
                expected = edge.rate / 24 * weight
                # Poisson by the gaps between arrivals
                at = rng.expovariate(expected) if expected else 2.0
                while at < 1.0:
                    yield day * 86_400 + hour * 3600 + at * 3600
                    at += rng.expovariate(expected)

    def _session(self, edge: Edge, second: float) -> Iterator[Flow]:
        rng = self.rng
        replica = 0 if edge.is_led else rng.randrange(self.replicas[edge.source])
        version = "v2" if edge.source in self.rolled and second >= ROLLOUT_DAY * 86_400 else "v1"
        source, target, port = edge.key
        for number in range(1 if rng.random() < 0.8 else rng.randrange(2, 12)):
            yield Flow(
                start=BEGIN + dt.timedelta(seconds=second + number * 0.7), source=source, destination=target,
                destination_port=port, protocol="tcp", established=True, replica=f"s{edge.source}-{replica}{version}",
                version=version, sensor="sim",
            )  # fmt: skip

    def uncovered(self, judge: Judge, history: History) -> list[Edge]:
        """The edges of the world that a proposal does not allow."""
        allowed = {kind.edge for kind in history.kinds.values() if not judge.denies(kind)}
        return [edge for edge in self.edges if edge.key not in allowed]

    def truth(self, uncovered: list[Edge]) -> tuple[float, float, float]:
        """The probability that the next session, an hour of the next day, and the next day hold something uncovered."""
        rates = sum(edge.rate for edge in uncovered)
        total = sum(edge.rate + (1 / edge.every if edge.every else 0) for edge in self.edges)
        due = [edge for edge in uncovered if edge.every and (self.days + edge.source) % edge.every == 0]
        hours = [
            1.0 if any(edge.hour == hour for edge in due) else 1 - math.exp(-rates / 24 * weight)
            for hour, weight in enumerate(DAILY)
        ]
        return (rates + len(due)) / total, sum(hours) / 24, 1.0 if due else 1 - math.exp(-rates)

    def schedules(self) -> tuple[Schedule, ...]:
        """The jobs of the world, as they are declared."""
        crons = {1: "0 {} * * *", 7: "0 {} * * 1", 30: "0 {} 1 * *"}
        return tuple(
            Schedule(edge.key[0], edge.key[1], crons[edge.every].format(edge.hour)) for edge in self.edges if edge.every
        )

    def attacks(self) -> dict[str, list[Flow]]:
        """Five attacks, each with flows that are answered where the attacker is lucky."""
        rng = self.rng
        known = {edge.key for edge in self.edges}
        many = [number for number in range(SERVICES) if self.replicas[number] > 2 and number not in self.rolled]
        one = [number for number in range(SERVICES) if self.replicas[number] == 1 and number not in self.rolled]
        fast, slow, lateral, extra = rng.sample(many, 4)

        def contact(source: int, number: int, hours: float, *, answered: bool, port: int) -> Flow:
            target = (source + 7 + number) % SERVICES
            return Flow(
                start=BEGIN + dt.timedelta(hours=hours), source=f"{NS}s{source}", destination=f"{NS}s{target}",
                destination_port=port, protocol="tcp", established=answered, replica=f"s{source}-0v1", version="v1",
                sensor="sim",
            )  # fmt: skip

        found = {
            "fast scan": [
                contact(fast, n, 100 + n / 3600, answered=n % 12 == 11, port=1000 + n) for n in range(600)
            ],
            "slow scan": [contact(slow, n, 90 + n / 3, answered=n % 10 == 9, port=3000 + n) for n in range(120)],
            "lateral movement": [
                contact(lateral, n % 6, 120 + n / 2, answered=True, port=22) for n in range(60)
            ],
            "lateral movement of a lone replica": [
                contact(one[0], n % 8, 150 + n / 20, answered=True, port=22) for n in range(24)
            ],
            "one more connection an hour": [contact(extra, 3, 60 + n, answered=True, port=5433) for n in range(100)],
        }  # fmt: skip
        for flows in found.values():
            assert not {(flow.source, flow.destination, flow.destination_port) for flow in flows} & known
        return found


def learned(world: World, flows: list[Flow], *, declared: bool = False) -> tuple[History, Proposal, Judge]:
    history = History()
    history.add(flows)
    proposal = propose_from(history, Watch(schedules=world.schedules() if declared else ()))
    return history, proposal, Judge(written(proposal.services))
