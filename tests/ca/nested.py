"""A server and one below it, both in memory: the upstream is a call away, and may be unreachable."""

import dataclasses
import datetime as dt
import pathlib

from ca.authority import Authority, open_authority
from ca.following import Followed
from ca.neighbours import Words
from ca.upstream.chain import Upstreamed
from mesh.database import open_database, sqlite_url
from mesh.problems import Unavailable
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey

DOMAIN = TrustDomain("corp.test")
WRAPPING = WrappingKey(b"w" * 32, beside_state=False)
WEEK = dt.timedelta(days=7)
NODE = "downstream-eu"


@dataclasses.dataclass(slots=True, kw_only=True)
class Direct:
    """An upstream in this process."""

    above: Authority
    node: str = NODE
    name: str = "direct"
    is_reachable: bool = True
    asked: int = 0

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        self.asked += 1
        if not self.is_reachable:
            raise Unavailable("LM1613", upstream=self.name, reason="it is away")
        given = self.above.downstreams.sign(self.node, csr, now)
        return Upstreamed(chain=given.chain, roots=given.roots, trust=self.above.signed_trust, state=self.above.trust)


@dataclasses.dataclass(slots=True, kw_only=True)
class Pair:
    """``above`` is the server above, ``below`` the one below it."""

    above: Authority
    below: Authority
    way: Direct

    def follow(self, now: dt.datetime) -> Followed:
        """The server below takes what the one above says now."""
        stands = self.above.downstreams.standing(self.way.node)
        return self.below.following.follow(self.above.trust, self.above.signed_trust, tainted=stands.tainted, now=now)

    def say(self, now: dt.datetime) -> Words:
        """The server above takes what the one below says of itself now."""
        words = self.below.following.words(now)
        self.above.downstreams.hear(self.way.node, words, now)
        return words

    def meet(self, now: dt.datetime) -> None:
        """Both know everything of each other."""
        self.say(now)
        self.follow(now)


def open_above(folder: pathlib.Path, now: dt.datetime) -> Authority:
    engine = open_database(sqlite_url(folder / "above.db"))
    return open_authority(engine, WRAPPING, trust_domain=DOMAIN, now=now)


def open_below(folder: pathlib.Path, above: Authority, now: dt.datetime, name: str = "eu") -> Pair:
    above.downstreams.allow(name, token=f"token-{name}", life=WEEK, now=now)
    way = Direct(above=above, node=f"downstream-{name}")
    engine = open_database(sqlite_url(folder / f"{name}.db"))
    below = open_authority(engine, WRAPPING, trust_domain=DOMAIN, now=now, upstream=way)
    return Pair(above=above, below=below, way=way)


def close(*found: Authority) -> None:
    for item in found:
        item._engine.dispose()
