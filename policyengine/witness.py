"""A request of given classes: what a plan shows and replays, and what probes ask.

Every class has a value that stands for it; values that nobody can read are malformed where a request can say so, and
named as unknown otherwise. A custom rule is opaque: no request is made to meet it, so whoever replays a witness
supposes its answer (`supposed`). Nothing here decides.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import cast

from mesh.request import Request
from policyengine.atoms import target_of
from policyengine.belief import Belief
from policyengine.circumstances import BEFORE, BELIEVED, CLAIM, FORWARDED, HEADER, PEER, REGO, TIME, Variable
from policyengine.regions import OTHER, PortAxes

_COMMON_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Classes of a request: of method, host and path by place in the axes, and of every variable (``sample``)."""

    method: int
    host: int
    path: int
    sample: Mapping[int, int]


def request_at(
    service: str, axes: PortAxes, cell: Cell, variables: Sequence[Variable], source: str, now: dt.datetime
) -> Request:
    """The representative of a cell, at ``now`` unless the variables speak of the moment."""
    brought = [pair for place, index in cell.sample.items() for pair in variables[place].values[index].bring]
    fields: dict[str, object] = {}
    headers: list[tuple[str, str]] = []
    claims: dict[str, object] = {}
    unknown: set[str] = set()
    for name, value in brought:
        if name == "unknown":
            unknown.add(str(value))
        elif name == TIME:
            fields["time"] = value
        elif name in {PEER, FORWARDED}:
            fields[name] = value
        elif name.startswith(HEADER):
            headers.append((name.removeprefix(HEADER), str(value)))
        elif name == CLAIM + "iss":
            claims["iss"] = value
        elif name.startswith(CLAIM):
            held = cast("list[object]", claims.setdefault(name.removeprefix(CLAIM), []))
            held.append(value)
    single = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in claims.items()
    }
    if axes.protocol == "tcp":
        return Request(
            service=service,
            port=axes.port,
            protocol="tcp",
            source=source,
            peer_ip=cast("str | None", fields.get(PEER)),
            time=cast("dt.datetime", fields.get(TIME, now)),
            unknown=frozenset(unknown),
        )
    return Request(
        service=service,
        port=axes.port,
        protocol=axes.protocol,
        source=source,
        method=representative_method(axes.methods[cell.method], axes),
        host=axes.hosts[cell.host][1],
        path=target_of(axes.paths[cell.path][1]),
        headers=tuple(headers),
        claims=single if "iss" in single else None,
        peer_ip=cast("str | None", fields.get(PEER)),
        forwarded_ip=cast("str | None", fields.get(FORWARDED)),
        time=cast("dt.datetime", fields.get(TIME, now)),
        unknown=frozenset(unknown),
    )


Supposed = Mapping[tuple[str, bool], bool | None]
"""Answers of custom rules: by name, and whether it is the rule of the earlier version alone."""


def supposed(cell: Cell, variables: Sequence[Variable]) -> Supposed:
    """What a cell supposes of custom rules; one of both versions has one answer where both believe the same."""
    found: dict[tuple[str, bool], bool | None] = {}
    is_same = believed(cell, variables) is None
    for place, index in cell.sample.items():
        if is_same and any(test.is_before for test in variables[place].values[index].truths):
            continue
        for name, truth in variables[place].values[index].bring:
            if name.startswith(REGO):
                rule = name.removeprefix(REGO).removesuffix(BEFORE)
                found[rule, name.endswith(BEFORE)] = cast("bool | None", truth)
    return found


def believed(cell: Cell, variables: Sequence[Variable]) -> tuple[str, Belief] | None:
    """The issuer of the token that a cell supposes, and which versions believe it; None when both do."""
    brought = dict(pair for place, index in cell.sample.items() for pair in variables[place].values[index].bring)
    belief = cast("Belief", brought.get(BELIEVED, "both"))
    return None if belief == "both" else (str(brought[CLAIM + "iss"]), belief)


def unbelieved(request: Request) -> Request:
    """The request as it is to a version that does not believe its token."""
    return dataclasses.replace(request, claims=None, unknown=request.unknown | {"claims"})


def representative_method(method: str, axes: PortAxes) -> str:
    """The method of a cell; for "every other one", a common method that no rule names."""
    if method != OTHER:
        return method
    if axes.protocol == "grpc" and "POST" not in axes.methods:
        return "POST"
    return next((name for name in _COMMON_METHODS if name not in axes.methods), "LIMEN-WITNESS")
