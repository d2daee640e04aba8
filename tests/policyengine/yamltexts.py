"""Generated policy files as people write them: every style, comments and blank lines anywhere between values."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.policyengine.strategies import policy_sets

KINDS = {
    "services": "Service",
    "policies": "Policy",
    "groups": "Group",
    "invariants": "Invariant",
    "exceptions": "Exception",
}


def documents_of(policies: Any) -> list[dict[str, Any]]:
    """The documents that say what a policy set says."""
    found = []
    for field, items in policies.to_json().items():
        if field not in KINDS:
            continue
        for item in items:
            spec = {key: value for key, value in item.items() if key not in {"name", "owner"}}
            if field == "groups" and not spec["members"]:
                continue  # a file cannot say it
            found.append(
                {
                    "apiVersion": "limen.dev/v1",
                    "kind": KINDS[field],
                    "metadata": {"name": item["name"], "owner": item["owner"]},
                    "spec": spec,
                }
            )
    return found


@st.composite
def texts(draw: st.DrawFn, most_comments: int = 6, most_documents: int = 3) -> str:
    """A file with documents in some style, and comments where lines end or begin."""
    documents = documents_of(draw(policy_sets))[-most_documents:]
    parts = []
    for document in documents:
        style = draw(st.sampled_from((None, False, None)))
        indent, width = draw(st.sampled_from((2, 4))), draw(st.sampled_from((40, 80, 1000)))
        parts.append(
            yaml.dump(
                json.loads(json.dumps(document)),
                default_flow_style=style,
                indent=indent,
                width=width,
                sort_keys=draw(st.booleans()),
            )
        )
    lines = "---\n".join(parts).split("\n")
    for _ in range(draw(st.integers(0, most_comments))):
        place = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(("own", "own", "end", "blank")))
        if kind == "end" and lines[place] and lines[place] != "---" and "#" not in lines[place]:
            lines[place] += draw(st.sampled_from((" ", "     "))) + f"# end {place}"
        elif kind == "own":
            lines.insert(place, " " * draw(st.integers(0, 6)) + f"# own {place}: 'x")
        elif kind == "blank":
            lines.insert(place, " " * draw(st.integers(0, 2)))
    return "\n".join(lines)
