"""How long the authorities last: told in days, and an error before the end, while there is time to act."""

from __future__ import annotations

import datetime as dt
from typing import Any

from limen.checks.result import Result, failed, passed, warned
from mesh.clock import parse_time
from mesh.problems import Diagnostic

GROUP = "identity"
GRACE = dt.timedelta(minutes=10)
# an ACME issuing certificate is renewed 120 days before it ends; nothing replaces an ACME root by itself
ACME_ISSUING, ACME_ROOT = dt.timedelta(days=100), dt.timedelta(days=400)


def authorities(listing: dict[str, Any], now: dt.datetime) -> list[Result]:
    """Check the answer of ``GET /v1/authorities``.

    1. EVERY authority that signs has a successor when its time to have one is 10 minutes past: else it is an error,
       long before it ends (LM1314). Where people have to act, that time is two weeks before the end. An authority
       above that does not help is told as soon as that is known.
    2. Agents that do not hold the newest trust state are told: a rotation waits for them.
    """
    found = []
    prepared = {row["kind"] for row in listing["authorities"] if row["state"] == "prepared"}
    for row in listing["authorities"]:
        if row["state"] != "active":
            continue
        end, renews = parse_time(row["not_after"]), parse_time(row["renews_at"])
        days = max(0, (end - now).days)
        text = f"the {row['kind']} authority {row['id']} ends in {days} days, and is replaced from {renews:%Y-%m-%d} on"
        if row["kind"] == "root" and listing.get("upstream"):
            text = f"the root authority {row['id']} ends in {days} days, and is replaced above this server"
        below = row.get("downstream")
        if below:
            text = f"the server below `{below}` signs with {row['id']}, which ends in {days} days"
        # (1)
        if now > renews + GRACE and row["kind"] not in prepared:
            found.append(failed(GROUP, text, "LM1314", _hint(row, listing.get("upstream"))))
        else:
            found.append(passed(GROUP, text))
    if listing.get("upstream_problem"):
        text = f"the authority above ({listing['upstream']}) is of no help now: {listing['upstream_problem']}"
        found.append(
            warned(GROUP, text, "LM1613", "all goes on until an issuing authority ends; see docs/guides/upstream.md")
        )
    if listing.get("web"):
        found.append(_web(listing["web"], now))
    signing = {row.get("algorithm") for row in listing["authorities"] if row["state"] == "active"}
    if "ml-dsa-65" in signing:
        said = Diagnostic(code="LM1318")
        found.append(warned(GROUP, said.message, said.code, said.help))
    # (2)
    if listing["agents_behind"]:
        nodes = ", ".join(listing["agents_behind"])
        text = f"agents behind trust state {listing['sequence']}: {nodes}"
        found.append(warned(GROUP, text, "LM1309", "run `limen status` for how they are"))
    return found


def acme_authorities(status: dict[str, Any], now: dt.datetime) -> list[Result]:
    """Check the answer of ``GET /v1/acme/status``: what ends soon is an error while there is time (LM1314)."""
    hints = {
        "root": (ACME_ROOT, "have web certificates from another authority by then: there is no second ACME root"),
        "issuing": (ACME_ISSUING, "look at the server's log for why it was not renewed"),
    }
    found = []
    for kind, (margin, hint) in hints.items():
        end = parse_time(status[f"{kind}_not_after"])
        text = f"the ACME {kind} authority ends in {max(0, (end - now).days)} days"
        found.append(failed(GROUP, text, "LM1314", hint) if end - now < margin else passed(GROUP, text))
    return found


def _web(life: dict[str, Any], now: dt.datetime) -> Result:
    """A web certificate that nobody renewed: whoever renews in time does so with a third of its life left."""
    begin, end = parse_time(life["not_before"]), parse_time(life["not_after"])
    said = Diagnostic(code="LM1521", facts={"days": max(0, (end - now).days), "not_after": life["not_after"]})
    if end - now < (end - begin) / 6:
        return failed(GROUP, said.message, said.code, said.help)
    if end - now < (end - begin) / 4:
        return warned(GROUP, said.message, said.code, said.help)
    return passed(GROUP, said.message)


def _hint(row: dict[str, Any], upstream: str | None) -> str:
    """What to do about an authority that has no successor in time."""
    if row.get("downstream"):
        name = row["downstream"]
        return f"see why `{name}` has not asked for another, or run `limen identity downstream remove {name}`"
    if row["kind"] == "root" and upstream:
        return "have the authority above get a root that lasts, and certify this server anew"
    if row["kind"] == "issuing" and upstream == "offline":
        return "have the request signed that `limen identity upstream csr` prints, and import the answer"
    return f"run `limen identity rotate {row['kind']}`, and look at the server's log for why it did not by itself"
