"""Requests of two kinds of services, from one seed: one with typed identifiers, one that mixes them with words.

Each route has its identifiers' makers; traffic is drawn with the weights of a few busy routes and many quiet ones.
Probes are siblings that nobody uses: a word in the place of a segment.
"""

import itertools
import random
import uuid
from collections.abc import Callable, Sequence

Maker = Callable[[random.Random], str]
Route = tuple[str | Maker, ...]

WORDS = ("admin", "internal", "debug", "export", "secrets", "metrics", "shutdown", "config", "dump", "root")


def ident(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def number(rng: random.Random) -> str:
    return str(rng.randrange(1, 100_000))


def date(rng: random.Random) -> str:
    return f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"


def commit(rng: random.Random) -> str:
    return f"{rng.getrandbits(156):039x}a1"


def user(rng: random.Random) -> str:
    return "".join(rng.choice(("ba", "ko", "li", "ma", "ne", "ro", "su", "ti")) for _ in range(rng.randrange(2, 5)))


NOUNS = ("order", "trip", "station", "train", "route", "price", "seat", "food", "assurance", "contact")
TYPED: list[Route] = [
    *(("api", "v1", f"{noun}service", f"{noun}s") for noun in NOUNS),
    *(("api", "v1", f"{noun}service", f"{noun}s", ident) for noun in NOUNS),
    *(("api", "v1", f"{noun}service", f"{noun}s", ident, "status", number) for noun in NOUNS),
    *(("api", "v1", f"{noun}service", "by-date", date) for noun in NOUNS),
    *(("api", "v1", f"{noun}service", "welcome") for noun in NOUNS),
]
MIXED: list[Route] = [
    ("api", "v2", "users", user), ("api", "v2", "users", user, "repos"), ("api", "v2", "me"),
    *(("api", "v2", noun) for noun in ("projects", "issues", "labels", "teams", "hooks", "keys")),
    *(("api", "v2", noun, number) for noun in ("projects", "issues", "labels", "teams", "hooks", "keys")),
    *(("api", "v2", noun, number, child) for noun in ("projects", "issues", "teams") for child in
      ("members", "events", "files", "settings", "comments")),
    *(("api", "v2", "projects", number, "issues", number, child) for child in ("notes", "links", "votes")),
    *(("api", "v2", "projects", number, "commits", commit, child) for child in ("diff", "tree", "raw")),
    *(("static", kind, name) for kind in ("css", "js", "img") for name in ("main", "vendor", "print", "logo")),
    *(("settings", page) for page in ("profile", "security", "billing", "tokens", "emails")),
    ("healthz",), ("login",), ("logout",),
]  # fmt: skip


def traffic(routes: Sequence[Route], count: int, seed: int) -> list[str]:
    """Paths in the order of time, by a Zipf law over the routes."""
    rng = random.Random(seed)
    order = list(routes)
    rng.shuffle(order)
    weights = [1 / (rank + 3) for rank in range(len(order))]
    return [_made(route, rng) for route in rng.choices(order, weights, k=count)]


def probes(routes: Sequence[Route], seed: int) -> list[str]:
    """Siblings that nobody uses: each segment of each route replaced by a word."""
    rng = random.Random(seed)
    used = {tuple(route) for route in routes}
    found = []
    for route in routes:
        for place, word in itertools.product(range(len(route)), WORDS[:4]):
            sibling = (*route[:place], word, *route[place + 1 :])
            if sibling not in used:
                found.append(_made(sibling, rng))
    return found


def _made(route: Route, rng: random.Random) -> str:
    return "/" + "/".join(part if isinstance(part, str) else part(rng) for part in route)
