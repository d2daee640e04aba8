"""Where a request stands in the diagram of its service: its classes, and the leaf that they lead to.

The classes are found from the attributes as rules read them (`policyengine.attributes`), so a request has the leaf that
says what `policyengine.decide` says of it. Nothing here decides.
"""

from __future__ import annotations

import dataclasses

from mesh.request import Request
from mesh.spiffe import SpiffeId
from policyengine.attributes import (
    ABSENT,
    Facts,
    Truth,
    address_holds,
    claims_hold,
    header_holds,
    hours_hold,
    identity_of,
    read,
)
from policyengine.circumstances import CLAIM, FORWARDED, HEADER, PEER, REGO, TIME, TOKEN, Test, Variable
from policyengine.diagram import CONDITIONS, HOST, METHOD, PATH, Diagram, Leaf, Node
from policyengine.model import ClaimsCondition, CustomRules, Hours
from policyengine.regions import OTHER, PortAxes, Region


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A request's region and port, and its class in every dimension: METHOD, HOST, PATH, then the variables."""

    region: Region
    axes: PortAxes
    classes: dict[int, int]


def leaf_of(diagram: Diagram, request: Request, custom: CustomRules | None = None) -> Leaf | None:
    """The leaf of a request; None for one that the diagram does not speak of. ``custom`` evaluates custom rules.

    Raises TooLarge.
    """
    place = place_of(diagram, request, custom)
    if place is None:
        return None
    tree = diagram.builder(place.region).tree(place.axes)
    while isinstance(tree, Node):
        index = place.classes[tree.dimension]
        tree = next(below for classes, below in tree.arms if index in classes)
    return tree


def place_of(diagram: Diagram, request: Request, custom: CustomRules | None = None) -> Place | None:
    """Where a request stands; None outside of the diagram (refused before any rule, no identity, no such port)."""
    source = identity_of(request.source)
    if source is None:
        return None
    region = region_of(diagram, source)
    axes = None if region is None else next((found for found in region.ports if found.port == request.port), None)
    if region is None or axes is None or "source" in request.unknown:
        return None
    if axes.protocol == "tcp" and request.forwarded_ip is not None:
        return None  # nobody reports an address on a connection that is not read
    forms = [form for form in region.forms if form is not None]
    headers = frozenset(name for form in forms for name in form.headers)
    cases = {form.service.path_case for form in forms}
    facts = read(request, axes.protocol, headers, cases.pop() if len(cases) == 1 else "sensitive")
    facts.custom = custom
    classes = {} if axes.protocol == "tcp" else _operation(axes, facts)
    if facts.ambiguous or classes is None:
        return None
    for place, variable in enumerate(diagram.builder(region).variables):
        index = _value_of(variable, facts)
        if index is None:
            return None
        classes[CONDITIONS + place] = index
    return Place(region=region, axes=axes, classes=classes)


def region_of(diagram: Diagram, source: SpiffeId) -> Region | None:
    """The region of a caller: the one that has the narrowest class that holds it."""
    prefixes = [str(source)]
    while prefixes[-1].count("/") > 2:
        prefixes.append(prefixes[-1].rpartition("/")[0])
    texts = (prefixes[0], *(f"{prefix}/**" for prefix in prefixes[1:]), "any")
    return next((diagram.by_caller[text] for text in texts if text in diagram.by_caller), None)


def _operation(axes: PortAxes, facts: Facts) -> dict[int, int] | None:
    if not facts.is_parsed or facts.method is None or facts.path is None:
        return None
    path = path_class(axes, facts.path)
    if path is None:
        return None
    return {METHOD: method_class(axes, facts.method), HOST: _host(axes, facts.host), PATH: path}


def method_class(axes: PortAxes, method: str) -> int:
    """The class of a method."""
    return axes.methods.index(method if method in axes.methods else OTHER)


def path_class(axes: PortAxes, path: tuple[str, ...]) -> int | None:
    """The class of a canonical path as the versions read it; None where the diagram does not look.

    Where they differ about its case, the path is the one that tells letters apart.
    """
    is_mixed = axes.foldable is not None
    signature = frozenset(
        i for i, pattern in enumerate(axes.patterns) if (pattern.holds(path) if is_mixed else pattern.matches(path))
    )
    return next((i for i, (found, _) in enumerate(axes.paths) if found == signature), None)


def _host(axes: PortAxes, host: str | None) -> int:
    names = [name for name, _ in axes.hosts]
    wanted = ["malformed"] if host is None else [] if host == ABSENT else [host, f"*.{host.partition('.')[2]}"]
    return next((names.index(name) for name in wanted if name in names), names.index(OTHER))


def _value_of(variable: Variable, facts: Facts) -> int | None:
    """The class of a request's value; None where the diagram has none."""
    name = variable.attribute
    if name.startswith(CLAIM):
        return _claim(variable, facts)
    for index, value in enumerate(variable.values):
        if all(truth == _truth(test, facts) for test, truth in value.truths.items() if test.attribute == name):
            return index
    return None


def _claim(variable: Variable, facts: Facts) -> int:
    name, _, place = variable.attribute.removeprefix(CLAIM).rpartition("=")
    is_group = bool(name) and place.isdigit() and len(variable.values) == 2 and bool(variable.values[1].said)
    if not is_group:
        known = _claims(facts, variable.attribute.removeprefix(CLAIM), ("",))
        return 1 if known is None else 0
    values = tuple(value for value in variable.values[1].said if isinstance(value, str | int))
    return 1 if _claims(facts, name, values) is True else 0


def _claims(facts: Facts, name: str, values: tuple[str | int | bool, ...]) -> Truth:
    issuer = (facts.request.claims or {}).get("iss")
    if not isinstance(issuer, str):
        return False
    return claims_hold(ClaimsCondition(issuer=issuer, values=((name, values),)), facts)


def _truth(test: Test, facts: Facts) -> Truth:
    """How a test comes out."""
    name, wanted = test.attribute, test.wanted
    if name == TIME:
        time = None if "time" in facts.request.unknown else facts.request.time
        if isinstance(wanted[0], Hours):
            return hours_hold(wanted[0], facts)
        return time is not None and time < wanted[0]  # type: ignore[operator]  # an end
    if name == TOKEN:
        return claims_hold(ClaimsCondition(issuer=str(wanted[0])), facts)
    if name.startswith(HEADER):
        return header_holds(name.removeprefix(HEADER), wanted, facts)  # type: ignore[arg-type]  # texts
    if name.startswith(REGO):
        return None if facts.custom is None else facts.custom(str(wanted[0]), facts.request)
    assert name in {PEER, FORWARDED}, name
    address = facts.request.peer_ip if name == PEER else facts.request.forwarded_ip
    if address is None and name == FORWARDED and "forwarded_ip" not in facts.request.unknown:
        return False
    return address_holds(address, name, wanted, facts)  # type: ignore[arg-type]  # networks
