"""What an X.509-SVID costs: `python -m benchmarks.issuance [COUNT]`.

Each step by itself and all of them together, in this process, by CPU time: issues a second on one core. The last
row adds the durable record of the serial number, one transaction a certificate, by the wall clock.
"""

from __future__ import annotations

import datetime as dt
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from ca import issuance, keys, mint
from ca.authority import Authority, open_authority
from ca.registration import IdentityRule, RuleSet, Selector
from mesh.database import open_database, sqlite_url
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DOMAIN = TrustDomain("bench.test")
WEB = SpiffeId.parse("spiffe://bench.test/ns/shop/sa/web")
HOUR = dt.timedelta(hours=1)
ROUNDS = 3


def rules(count: int) -> RuleSet:
    """Rules for that many users."""
    return RuleSet(
        rules=tuple(
            IdentityRule(id=f"r{place}", match=(Selector.parse("unix:uid", str(place)),), spiffe_id="/user/{unix:uid}")
            for place in range(count)
        )
    )


def rate(step: Callable[[], object], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """How often a second a step runs: the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = clock()
        for _ in range(count):
            step()
        best = min(best, clock() - begin)
    return count / best


def row(name: str, found: float) -> None:
    print(f"{name:44} {found:10,.0f}/s {1e6 / found:9,.1f} us")


def steps(authority: Authority, count: int) -> None:
    spki = keys.spki_der(keys.new_key().public_key())
    public = keys.parse_spki(spki)
    bundles = {DOMAIN: authority.bundle}
    leaf = mint.mint_svid(WEB, public, authority.issuer, serial=1 << 120, now=NOW, life=HOUR)
    chain = (leaf, *authority.intermediates)
    row("read the public key", rate(lambda: keys.parse_spki(spki), count))
    for size in (10, 1000):
        found = rules(size)
        facts = {"unix:uid": (str(size - 1),)}
        row(f"entitle by {size} rules", rate(lambda f=found, x=facts: f.entitle(x, DOMAIN), max(count // 10, 50)))  # type: ignore[misc]
    row(
        "mint",
        rate(lambda: mint.mint_svid(WEB, public, authority.issuer, serial=1 << 120, now=NOW, life=HOUR), count),
    )
    row("verify our own work", rate(lambda: verify_x509_svid(chain, bundles, NOW), count))

    def issue() -> object:
        return issuance.issue_workload(
            authority, rules_of_ten, facts={"unix:uid": ("9",)}, spki=spki, node="n1", now=NOW
        )

    rules_of_ten = rules(10)
    row("issue, all steps, CPU time", rate(issue, count))
    row("issue, all steps, wall clock", rate(issue, count, time.perf_counter))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(sqlite_url(pathlib.Path(folder) / "ca.db"))
        authority = open_authority(engine, WrappingKey(b"w" * 32, beside_state=False), trust_domain=DOMAIN, now=NOW)
        steps(authority, count)
        engine.dispose()


if __name__ == "__main__":
    main()
