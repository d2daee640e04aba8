"""Checks of the relationships with other trust domains: bundles that nobody confirmed lately, polls that fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limen.checks.result import Result, passed, warned
from mesh.problems import render


def relationships(rows: Sequence[Mapping[str, Any]]) -> list[Result]:
    """What the server says of each relationship (`GET /v1/federation`)."""
    group = "federation"
    found = []
    for row in rows:
        name = row["trust_domain"]
        if row["is_stale"]:
            age = "never" if row["age_s"] is None else f"{row['age_s']} s ago"
            message, help_ = render("LM1512", {"trust_domain": name, "age": age})
            reason = f": {row['code']} {row['reason']}" if row["code"] else ""
            found.append(warned(group, message + reason, "LM1512", help_))
        elif row["failed_polls"]:
            text = f"{row['failed_polls']} polls of {name} failed, the bundle is {row['age_s']} s old: {row['reason']}"
            found.append(warned(group, text, row["code"], f"run `limen federation refresh {name}`"))
        elif not row["x509_authorities"] and not row["jwt_authorities"]:
            message, help_ = render("LM1517", {"trust_domain": name})
            found.append(warned(group, message, "LM1517", help_))
        else:
            found.append(passed(group, f"the bundle of {name} was confirmed {row['age_s']} s ago"))
    return found
