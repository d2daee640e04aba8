"""Probes: requests that a policy set tells apart, to ask another engine whether it decides as Limen does.

They are representatives of the classes that a diagram tells apart, for every service and class of callers, as many as
asked for, and beside them what no class holds: nobody, an ambiguous path, an undeclared port, an unknown service.
Agreement on probes is evidence that the right program runs with the right data, not a proof.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Iterator

from mesh.request import Request
from policyengine.atoms import TooLarge
from policyengine.diagram import CONDITIONS, HOST, METHOD, PATH, Builder, Leaf, Tree
from policyengine.model import PolicySet
from policyengine.regions import PortAxes, Region, changes_of, regions_of
from policyengine.witness import Cell, request_at

_UNDECLARED_PORT = 1


def probes_of(policies: PolicySet, now: dt.datetime, limit: int) -> list[Request]:
    """At most ``limit`` requests; every service and class of callers has its turn before any has its second."""
    streams = [_probes(region, now) for change in changes_of(PolicySet(), policies) for region in regions_of(change)]
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


def _probes(region: Region, now: dt.datetime) -> Iterator[Request]:
    """A region's requests, as far as it can be looked at."""
    try:
        yield from _requests(region, now)
    except TooLarge:
        return


def _requests(region: Region, now: dt.datetime) -> Iterator[Request]:
    """A region's requests, the odd ones first.

    Raises TooLarge.
    """
    builder = Builder(region, now)
    sources = [callers.witness for callers in region.callers]
    cells = ((axes, cell) for axes in region.ports for cell in _cells(builder.tree(axes), axes, builder))
    for place, ((axes, cell), source) in enumerate(itertools.product(cells, sources)):
        request = request_at(region.service, axes, cell, builder.variables, source, now)
        if place == 0:
            yield from _odd(request)
        yield request


def _cells(tree: Tree, axes: PortAxes, builder: Builder) -> Iterator[Cell]:
    """One cell for every class of operations and every way through what conditions test."""
    every = {METHOD: range(len(axes.methods)), HOST: range(len(axes.hosts)), PATH: range(len(axes.paths))}
    for method, host, path in itertools.product(every[METHOD], every[HOST], every[PATH]):
        below = tree
        for dimension, index in ((METHOD, method), (HOST, host), (PATH, path)):
            if not isinstance(below, Leaf) and below.dimension == dimension:
                below = next(child for classes, child in below.arms if index in classes)
        for sample in _ways(below):
            usual = dict.fromkeys(range(len(builder.variables)), 0)
            yield Cell(method=method, host=host, path=path, sample={**usual, **sample})


def _ways(tree: Tree) -> Iterator[dict[int, int]]:
    if isinstance(tree, Leaf):
        yield {}
        return
    for classes, below in tree.arms:
        for way in _ways(below):
            yield {tree.dimension - CONDITIONS: min(classes), **way}


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
