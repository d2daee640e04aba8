"""What identity rules cost as they grow: `python benchmarks/entries.py [--count N] [--save]`.

100,000 single entries by default, each with three selectors and a path of its own: the memory of each, as the growth
of the process, how long the file takes to load and check, and how long one lookup takes with twenty facts.
"""

from __future__ import annotations

import argparse
import gc
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.speed import save
from ca.registration import IdentityRule, Refusal, RuleSet, Selector
from limen.rulesfile import RulesFile
from mesh.spiffe import TrustDomain

COUNT = 100_000
MAX_BYTES_EACH = 2048
MAX_LOOKUP_US = 50.0
DOMAIN = TrustDomain.parse("bench.test")


def resident() -> int:
    """The memory of this process, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("VmRSS is always there")


def digest(place: int) -> str:
    """A digest that no other entry has."""
    return f"{place:064x}"


def entries(count: int) -> tuple[IdentityRule, ...]:
    """Entries as a file would give them: every text an object of its own."""
    return tuple(
        IdentityRule(
            id=f"entry-{place}",
            match=(
                Selector.parse("unix:path", f"/opt/app-{place}/bin/service"),
                Selector.parse("unix:sha256", digest(place)),
                Selector.parse("unix:uid", str(1000 + place % 1000)),
            ),
            spiffe_id=f"/ns/team-{place % 97}/sa/app-{place}",
        )
        for place in range(count)
    )


def facts(place: int) -> dict[str, tuple[str, ...]]:
    """What is attested of a process: twenty facts, six of them about it."""
    more = {f"docker:label:l{number}": (f"v{number}",) for number in range(14)}
    return {
        **more,
        "unix:uid": (str(1000 + place % 1000),),
        "unix:gid": ("1000",),
        "unix:path": (f"/opt/app-{place}/bin/service",),
        "unix:basename": ("service",),
        "unix:sha256": (digest(place),),
        "node:id": ("a",),
    }


def text(count: int) -> str:
    """The same entries as a file."""
    lines = ["rules:"]
    for place in range(count):
        path, uid = f"/opt/app-{place}/bin/service", 1000 + place % 1000
        selectors = f"'unix:path': {path}, 'unix:sha256': '{digest(place)}', 'unix:uid': {uid}"
        lines += [
            f"- id: entry-{place}",
            f"  match: {{{selectors}}}",
            f"  spiffe_id: /ns/team-{place % 97}/sa/app-{place}",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and say whether the budgets hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    count: int = options.count
    gc.collect()
    before = resident()
    rules = RuleSet(rules=entries(count))
    gc.collect()
    each = (resident() - before) / count
    print(f"{count} entries: {each:.0f} bytes each (budget {MAX_BYTES_EACH})")
    begin = time.perf_counter()
    ties = rules.conflicts()
    print(f"all compared for ties in {time.perf_counter() - begin:.2f} s, {len(ties)} found")
    best = float("inf")
    for turn in range(5):
        # others in every turn: what was found once is known
        asked = [facts((place * 7919 + turn) % count) for place in range(2000)]
        begin = time.perf_counter()
        found = [rules.entitle(item, DOMAIN) for item in asked]
        best = min(best, (time.perf_counter() - begin) / len(asked) * 1e6)
    print(f"one lookup of facts that nobody asked with before: {best:.1f} us (budget {MAX_LOOKUP_US:.0f})")
    is_wrong = any(isinstance(item, Refusal) for item in found) or bool(ties)
    source = text(count)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "identities.yaml"
        path.write_text(source, "utf-8")
        file = RulesFile(path)
        begin, spent = time.perf_counter(), time.process_time()
        is_wrong |= not file.refresh() or len(file.rules.rules) != count
        took, cpu = time.perf_counter() - begin, time.process_time() - spent
    load = os.getloadavg()[0]
    print(
        f"a file of {len(source) / 1e6:.1f} MB read and checked in {took:.1f} s, {cpu:.1f} s of CPU (load {load:.1f})"
    )
    if options.save:
        row = {"count": count, "bytes_each": round(each), "lookup_us": round(best, 1), "load_s": round(took, 1)}
        row |= {"load_cpu_s": round(cpu, 1), "load": round(load, 2)}
        save("entries", {**row, "budgets": {"bytes_each": MAX_BYTES_EACH, "lookup_us": MAX_LOOKUP_US}})
    return int(is_wrong or each > MAX_BYTES_EACH or best > MAX_LOOKUP_US)


if __name__ == "__main__":
    sys.exit(main())
