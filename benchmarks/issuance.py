"""What an SVID costs in process: `python benchmarks/issuance.py [--count N] [--rounds N] [--save]`.

Everything that is part of issuing, in batches as the server gets them: the public key is read, the identity found
among a thousand rules by eight facts, the leaf minted, checked, and its serial number recorded durably with one
transaction a batch; every ask has a key and an identity of its own. JWT-SVIDs alike, without a key. CPU time of this
process, one core; each round runs `openssl speed` first, and the ratio to that is of the same round. One more row adds
the records in the audit log. Verdicts go by medians: on the budget, and on its share of the physical limit.
"""

from __future__ import annotations

import argparse
import datetime as dt
import pathlib
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.log import Log
from audit.record import records
from benchmarks.speed import Budget, Limit, openssl_speed, save, verdict
from ca.authority import Authority, JwtOrder, open_authority
from ca.issuance import IssuedSvid, WorkloadAsk, issue_workloads
from ca.keys import new_key, spki_der
from ca.mint import mint_svid
from ca.registration import Entitlement, IdentityRule, RuleSet, Selector
from limen.lifecycle import keep_what_is_loaded
from mesh.clock import format_time
from mesh.database import open_database, sqlite_url
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.ulid import RANDOM_BYTES
from mesh.wrapping import WrappingKey

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DOMAIN = TrustDomain("bench.test")
HOUR = dt.timedelta(hours=1)
MINUTES = dt.timedelta(minutes=5)
BATCH = 500
RULES = 1000
BUDGETS = {"x509": Budget("x509", 7_000, verifies=True), "jwt": Budget("jwt", 20_000, verifies=False)}
AUDIENCE = ("spiffe://bench.test/ns/shop/sa/db",)


def rules(count: int) -> RuleSet:
    """Rules for that many users, each with two selectors and a template."""
    return RuleSet(
        rules=tuple(
            IdentityRule(
                id=f"r{place}",
                match=(Selector.parse("unix:uid", str(place)), Selector.parse("unix:path", "/opt/shop/*")),
                spiffe_id="/ns/shop/user/{unix:uid}",
            )
            for place in range(count)
        )
    )


def facts(place: int) -> dict[str, tuple[str, ...]]:
    """What an agent attests of a process."""
    return {
        "unix:uid": (str(place % RULES),),
        "unix:gid": ("1000",),
        "unix:user": (f"u{place % RULES}",),
        "unix:group": ("shop",),
        "unix:path": ("/opt/shop/bin/service",),
        "unix:basename": ("service",),
        "unix:sha256": ("ab" * 32,),
        "node:id": ("n1",),
    }


def batches(count: int, moment: Callable[[], dt.datetime]) -> Iterator[tuple[range, dt.datetime]]:
    for begin in range(0, count, BATCH):
        yield range(begin, min(begin + BATCH, count)), moment()


class Bench:
    """An authority of its own, with asks that are made beforehand: their keys are the workloads' work."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        self.count = count
        self.engine = open_database(sqlite_url(folder / "ca.db"))
        self.authority: Authority = open_authority(
            self.engine, WrappingKey(b"w" * 32, beside_state=False), trust_domain=DOMAIN, now=NOW
        )
        self.rules = rules(RULES)
        self.log = Log.open(folder / "audit", key=Ed25519PrivateKey.generate(), origin="bench.test/audit")
        spkis = [spki_der(new_key().public_key()) for _ in range(count)]
        self.asks = [WorkloadAsk(facts=facts(place), spki=spki) for place, spki in enumerate(spkis)]
        self._at = NOW

    def moment(self) -> dt.datetime:
        """The time goes on, as it does between batches."""
        self._at += dt.timedelta(milliseconds=70)
        return self._at

    def x509(self) -> None:
        """Issue them all."""
        for places, now in batches(self.count, self.moment):
            asks = self.asks[places.start : places.stop]
            found = issue_workloads(self.authority, self.rules, asks, node="n1", now=now)
            assert all(isinstance(item, IssuedSvid) for item in found)

    def logged(self) -> None:
        """The same with a record of each in the audit log, as the server writes them."""
        for places, now in batches(self.count, self.moment):
            asks = self.asks[places.start : places.stop]
            rows = []
            for item in issue_workloads(self.authority, self.rules, asks, node="n1", now=now):
                assert isinstance(item, IssuedSvid)
                assert item.entitlement is not None
                rows.append(
                    {
                        "spiffe_id": str(item.spiffe_id),
                        "serial": f"{item.serial:x}",
                        "sha256": item.sha256,
                        "rule": item.entitlement.rule,
                        "not_after": format_time(item.not_after),
                    }
                )
            random = secrets.token_bytes(RANDOM_BYTES * len(rows))
            made = records("issuance", rows, now=now, random=random, source="server:bench.test", actor="n1")
            self.log.append_made(made)

    def jwt(self) -> None:
        """Sign as many tokens."""
        for places, now in batches(self.count, self.moment):
            orders = []
            for ask in self.asks[places.start : places.stop]:
                found = self.rules.entitle(ask.facts, DOMAIN)
                assert isinstance(found, Entitlement)
                orders.append(
                    JwtOrder(
                        spiffe_id=found.spiffe_id,
                        audiences=AUDIENCE,
                        life=MINUTES,
                        node="n1",
                        rule=found.rule,
                    )
                )
            self.authority.sign_jwts(orders, now=now)

    def by_builder(self) -> None:
        """Mint by the library's builder alone, for comparison: nothing read, found, checked or recorded."""
        public_key = new_key().public_key()
        name = SpiffeId.parse("spiffe://bench.test/ns/shop/user/1")
        for serial in range(1, self.count + 1):
            mint_svid(name, public_key, self.authority.issuer, serial=serial, now=NOW, life=HOUR)


def rate(work: Callable[[], None], count: int) -> float:
    """How many a second, by this process's CPU time."""
    begin = time.process_time()
    work()
    return count / (time.process_time() - begin)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    names = ("x509", "x509_logged", "jwt", "builder_alone")
    rates: dict[str, list[float]] = {name: [] for name in names}
    limits: list[Limit] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(pathlib.Path(folder), options.count)
        work = (bench.x509, bench.logged, bench.jwt, bench.by_builder)
        # as the server does
        keep_what_is_loaded()
        for _ in range(options.rounds):
            limit = openssl_speed()
            if limit is not None:
                limits.append(limit)
            for name, step in zip(names, work, strict=True):
                rates[name].append(rate(step, options.count))
        bench.log.close()
        bench.engine.dispose()
    found: dict[str, object] = {"count": options.count, "batch": BATCH, "rounds": options.rounds}
    if limits:
        sign, verify = (statistics.median(getattr(item, name) for item in limits) for name in ("sign", "verify"))
        found["openssl"] = {"sign_per_s": sign, "verify_per_s": verify}
        print(f"openssl speed, P-256, median: {sign:,.0f} signatures/s, {verify:,.0f} verifications/s")
    for name in names:
        middle = statistics.median(rates[name])
        row: dict[str, object] = {"per_s": round(middle), "best_per_s": round(max(rates[name]))}
        text = f"{name:16} {middle:9,.0f}/s {1e6 / middle:8.1f} us   best round {max(rates[name]):9,.0f}/s"
        if limits:
            bound = [item.sign if name in {"jwt", "builder_alone"} else item.both for item in limits]
            ratio = statistics.median(each / top for each, top in zip(rates[name], bound, strict=True))
            row["of_the_limit"] = round(ratio, 3)
            text += f"   {ratio:5.0%} of the limit"
        found[name] = row
        print(text)
    judged = {name: budget.judge(rates[name], limits) for name, budget in BUDGETS.items()}
    for name, one in judged.items():
        print(verdict(f"budget {name}", one))
    if options.save:
        save("issuance", {**found, "budgets": judged})
    return 0


if __name__ == "__main__":
    sys.exit(main())
