"""Checks of the container runtimes of this host: which can be asked, and which sockets are not to be believed."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from enforcer import control
from enforcer.runtime.options import USUAL, Place, places
from limen.checks.result import Result, passed, warned
from mesh.problems import Problem, entry

_GROUP = "containers"
_WHAT = {"docker": "Docker's API", "cri": "CRI"}


def runtimes(state: pathlib.Path) -> list[Result]:
    """What the agent of this host finds; without one, what an agent would find at the usual places."""
    try:
        told = control.ask(state / "control.sock", {"type": "status"}, timeout_s=5.0)
    except Problem:
        return shown(places([(kind, path) for kind, paths in USUAL.items() for path in paths]), None)
    listed = told.get("runtimes")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    pods = told.get("pods")
    return shown([_place(row) for row in rows], pods if isinstance(pods, str) else None)


def shown(found: list[Place], pods: str | None) -> list[Result]:
    """The results of what was found. ``pods`` is who is asked about pods."""
    results = []
    for place in found:
        what = f"{_WHAT.get(place.kind, place.kind)} at `{place.path}`"
        if place.code:
            text = f"nobody is asked about containers by {what}: {place.reason}"
            results.append(warned(_GROUP, text, place.code, entry(place.code)["help"]))
        else:
            untried = " (CRI-O: experimental, never tried)" if "crio" in place.path else ""
            results.append(passed(_GROUP, f"containers are asked about by {what}{untried}"))
    if any(place.kind == "cri" and not place.code for place in found):
        text = (
            f"service accounts of pods are asked of the {pods} (experimental)"
            if pods
            else "pods have no `k8s:sa`: nobody is asked"
        )
        results.append(passed(_GROUP, text))
    return results or [passed(_GROUP, "no container runtime is here; containers have no `docker:` and `k8s:` facts")]


def _place(row: Mapping[object, object]) -> Place:
    return Place(**{name: str(row.get(name, "")) for name in ("kind", "path", "code", "reason")})
