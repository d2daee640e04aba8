"""Probes: requests that a policy set tells apart, to ask another engine whether it decides as Limen does.

They are representatives of the classes that a plan walks, for every service and class of callers, as many as asked
for, and beside them what no class holds: nobody, an ambiguous path, an undeclared port, an unknown service. Agreement
on probes is evidence that the right program runs with the right data, not a proof.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterator

from mesh.request import Request
from policyengine.model import PolicySet
from policyengine.regions import Region, changes_of, regions_of

_UNDECLARED_PORT = 1


def probes_of(policies: PolicySet, now: dt.datetime, limit: int) -> list[Request]:
    """At most ``limit`` requests; every service and class of callers has its turn before any has its second."""
    streams = [_requests(region) for change in changes_of(PolicySet(), policies) for region in regions_of(change, now)]
    found = [Request(service="", port=1, protocol="tcp", time=now)]
    while streams and len(found) < limit:
        alive = []
        for stream in streams:
            request = next(stream, None)
            if request is not None and len(found) < limit:
                found.append(request)
                alive.append(stream)
        streams = alive
    return found


def _requests(region: Region) -> Iterator[Request]:
    """A region's requests, the odd ones first."""
    sources = [callers.witness for callers in region.callers]
    cells = ((axes, cell, source) for axes, cell in region.cells() for source in sources)
    for place, (axes, cell, source) in enumerate(cells):
        request = region.request(axes, cell, source)
        if place == 0:
            yield from _odd(request)
        yield request


def _odd(request: Request) -> Iterator[Request]:
    """What lies beside the classes."""
    yield dataclasses.replace(request, source=None)
    yield dataclasses.replace(request, port=_UNDECLARED_PORT)
    yield dataclasses.replace(request, time=None)
    if request.path is not None:
        yield dataclasses.replace(request, path="/a;b")
        yield dataclasses.replace(request, unknown=frozenset(("claims", "headers")))


def batches(requests: list[Request], size: int) -> Iterator[list[Request]]:
    """The requests in lists of at most ``size``."""
    waiting = iter(requests)
    while batch := list(itertools.islice(waiting, size)):
        yield batch
