"""Envoy's unified matcher from decision diagrams: caller, method, host, path, then conditions, each one look-up.

Envoy goes back to a wider branch when a narrower one has no answer, so every matcher made here has one for whatever may
come: its `on_no_match`. What Envoy cannot know is unknown to it, so an allow that asks for it does not match, and a
deny or pass does (design D3); that allows no more than Limen. Callers, methods and plain paths stand in maps; literals
stand in regular expressions only inside templates, each character escaped. This module reads no rules: diagrams did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mesh.request import Effect
from mesh.spiffe import SpiffePattern
from policyengine.atoms import target_of
from policyengine.canonical import SEGMENT_TYPES, HostPattern, PathPattern, PathSegment
from policyengine.circumstances import HEADER, PEER, Variable
from policyengine.diagram import CONDITIONS, HOST, METHOD, PATH, Leaf, Node, Tree
from policyengine.model import Network
from policyengine.reference import DEFAULT_DENY
from policyengine.regions import OTHER, PortAxes

Json = dict[str, object]
TYPE = "type.googleapis.com/"
PATH_KEY = "limen.path"
"""The filter state that holds the path without its query."""
MAX_NODES = 1_000_000
"""Matchers with more branches than this are refused: nobody could load them."""

# What Envoy sets, changes or takes away before it matches; several cookies it joins without a comma.
_OWN_HEADERS = re.compile(
    r":.*|host|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|http2-settings|content-length|expect"
    r"|cookie|forwarded|via|x-forwarded-.*|x-envoy-.*|x-request-id|x-client-trace-id|date|server"
)


class TooManyBranches(Exception):  # noqa: N818  not an error: the compiler refuses the port
    """A matcher would have more than MAX_NODES branches."""


def is_readable_header(name: str) -> bool:
    """Whether Envoy matches a header as it came."""
    return _OWN_HEADERS.fullmatch(name) is None


def can_test(variable: Variable) -> bool:
    """Whether Envoy knows the values of a variable."""
    if variable.attribute == PEER:
        return True
    name = variable.attribute
    return name.startswith(HEADER) and is_readable_header(name.removeprefix(HEADER))


# ---------------------------------------------------------------------- words of the matcher


def action(name: str, *, allows: bool) -> Json:
    """What is done, under the name that says by which rule."""
    body = {"@type": f"{TYPE}envoy.config.rbac.v3.Action", "name": name, "action": "ALLOW" if allows else "DENY"}
    return {"action": {"name": name, "typed_config": body}}


def _input(name: str, kind: str, **fields: object) -> Json:
    return {"name": name, "typed_config": {"@type": f"{TYPE}{kind}", **fields}}


URI_SAN = _input("uri-san", "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput")
PATH_INPUT = _input(
    "path", "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput", key=PATH_KEY
)  # fmt: skip
PEER_INPUT = _input("peer", "envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput")


def header_input(name: str) -> Json:
    """A header of the request, or a pseudo-header; of several Envoy sees one, joined by commas."""
    return _input(name, "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name)


def is_text(where: Json, **matcher: object) -> Json:
    """A predicate about one input."""
    return {"single_predicate": {"input": where, "value_match": matcher}}


def fits(where: Json, regex: str) -> Json:
    """A predicate: the whole input fits a regular expression (RE2)."""
    return is_text(where, safe_regex={"google_re2": {}, "regex": regex})


def first_of(rows: Sequence[tuple[Json, Json]], otherwise: Json) -> Json:
    """What stands behind the first predicate that holds."""
    if not rows:
        return otherwise
    matchers = [{"predicate": predicate, "on_match": found} for predicate, found in rows]
    return {"matcher": {"matcher_list": {"matchers": matchers}, "on_no_match": otherwise}}


def _map(where: Json, kind: str, rows: Mapping[str, Json], otherwise: Json) -> Json:
    if not rows:
        return otherwise
    return {"matcher": {"matcher_tree": {"input": where, kind: {"map": dict(rows)}}, "on_no_match": otherwise}}


def exactly(where: Json, rows: Mapping[str, Json], otherwise: Json) -> Json:
    """What stands behind a text."""
    return _map(where, "exact_match_map", rows, otherwise)


def by_prefix(where: Json, rows: Mapping[str, Json], otherwise: Json) -> Json:
    """What stands behind the longest prefix."""
    return _map(where, "prefix_match_map", rows, otherwise)


# ---------------------------------------------------------------------- callers


def by_caller(rows: Iterable[tuple[SpiffePattern | None, Json]]) -> Json:
    """What stands behind each class of callers; None is everybody else.

    The identity was seen to be a SPIFFE ID before, so a prefix that ends in a slash ends a segment.
    """
    exact: dict[str, Json] = {}
    below: dict[str, Json] = {}
    rest = action(DEFAULT_DENY, allows=False)
    for pattern, found in rows:
        if pattern is None:
            rest = found
        elif pattern.subtree:
            below[f"{pattern.id}/"] = found
        else:
            exact[str(pattern.id)] = found
    return exactly(URI_SAN, exact, by_prefix(URI_SAN, below, rest))


# ---------------------------------------------------------------------- requests


class TreeMatcher:
    """Turns the trees of one region and port into matchers; equal parts are one object, written out each time."""

    def __init__(self, axes: PortAxes, variables: Sequence[Variable]) -> None:
        self._axes, self._variables = axes, variables
        self._made: dict[int, tuple[Json, int]] = {}

    def of(self, tree: Tree) -> tuple[Json, int]:
        """The matcher of a tree and its number of branches.

        Raises TooManyBranches.
        """
        if id(tree) not in self._made:
            self._made[id(tree)] = _leaf(tree) if isinstance(tree, Leaf) else self._node(tree)
        return self._made[id(tree)]

    def _node(self, node: Node) -> tuple[Json, int]:
        if node.dimension >= CONDITIONS:
            variable = self._variables[node.dimension - CONDITIONS]
            if not can_test(variable):
                (unknown,) = variable.unknown
                return self.of(next(below for classes, below in node.arms if unknown in classes))
        arms = {index: self.of(below) for classes, below in node.arms for index in classes}
        size = 1 + sum(count for _, count in arms.values())
        if size > MAX_NODES:
            raise TooManyBranches
        branches = {index: found for index, (found, _) in arms.items()}
        if node.dimension == METHOD:
            named = {name: branches[i] for i, name in enumerate(self._axes.methods) if name != OTHER}
            return exactly(header_input(":method"), named, branches[self._axes.methods.index(OTHER)]), size
        if node.dimension == HOST:
            return _hosts(self._axes, branches), size
        if node.dimension == PATH:
            return _paths(self._axes, branches), size
        variable = self._variables[node.dimension - CONDITIONS]
        return (_peers if variable.attribute == PEER else _header)(variable, branches), size


def _leaf(leaf: Leaf) -> tuple[Json, int]:
    verdict = leaf.verdicts[0]
    grant = verdict.grant
    name = DEFAULT_DENY if grant is None else f"{grant.tier}/{grant.policy}/{grant.rule}"
    # a static file observes nothing: what the rules say is what happens
    return action(name, allows=verdict.policy_effect is Effect.ALLOW), 1


def _hosts(axes: PortAxes, branches: Mapping[int, Json]) -> Json:
    """Hosts without their case; a malformed one was refused before."""
    host = header_input(":authority")
    exact: list[tuple[Json, Json]] = []
    wide: list[tuple[Json, Json]] = []
    rest = action(DEFAULT_DENY, allows=False)
    for index, (name, _) in enumerate(axes.hosts):
        if name == OTHER:
            rest = branches[index]
        elif name != "malformed":
            pattern = HostPattern.parse(name)
            if pattern.wildcard:
                labels = pattern.name.count(".") + 1
                parts = [
                    is_text(host, suffix=f".{pattern.name}", ignore_case=True),
                    fits(host, rf"[^.]+(?:\.[^.]+){{{labels}}}"),
                ]
                wide.append(({"and_matcher": {"predicate": parts}}, branches[index]))
            else:
                exact.append((is_text(host, exact=pattern.name, ignore_case=True), branches[index]))
    return first_of([*exact, *wide], rest)


def _paths(axes: PortAxes, branches: Mapping[int, Json]) -> Json:
    """Whole paths by their text, subtrees by their longest prefix, templates one after another below them.

    1. A plain path is of one class: that of the patterns that it fits.
    2. Below a plain prefix, and below none, are the classes of its paths; templates tell them apart.
    """
    plain = {i: pattern for i, pattern in enumerate(axes.patterns) if _is_plain(pattern)}
    whole = {i for i, pattern in plain.items() if not pattern.subtree}
    texts = {i: target_of(_literals(p)) + "/" if p.segments else "/" for i, p in plain.items() if p.subtree}
    templates = [i for i in range(len(axes.patterns)) if i not in plain]
    places = {signature: index for index, (signature, _) in enumerate(axes.paths)}

    def below(covering: frozenset[int]) -> Json:
        found = [
            signature
            for signature in places
            if signature & texts.keys() == covering and not signature & whole
        ]  # fmt: skip
        return _apart(axes, {signature: branches[places[signature]] for signature in found}, templates)

    # (1)
    exact = {}
    for index in sorted(whole):
        path = _literals(plain[index])
        signature = frozenset(i for i, pattern in enumerate(axes.patterns) if pattern.matches(path))
        exact[target_of(path)] = branches[places[signature]]
    # (2)
    prefixes = {
        text: below(frozenset(i for i, other in texts.items() if text.startswith(other)))
        for text in sorted(texts.values())
    }
    return exactly(PATH_INPUT, exact, by_prefix(PATH_INPUT, prefixes, below(frozenset())))


def _apart(axes: PortAxes, classes: Mapping[frozenset[int], Json], templates: Sequence[int]) -> Json:
    """Tell classes of paths apart by the templates that they fit; every end has a class of its own."""
    if not classes:
        return action(DEFAULT_DENY, allows=False)  # no path comes here
    first, *others = classes.values()
    if all(found is first for found in others):
        return first
    for place, template in enumerate(templates):
        inside = {signature: found for signature, found in classes.items() if template in signature}
        if inside and len(inside) < len(classes):
            outside = {signature: found for signature, found in classes.items() if template not in signature}
            rest = templates[place + 1 :]
            predicate = fits(PATH_INPUT, regex_of(axes.patterns[template]))
            return first_of([(predicate, _apart(axes, inside, rest))], _apart(axes, outside, rest))
    raise AssertionError("two classes of paths differ in some pattern")


def _is_plain(pattern: PathPattern) -> bool:
    return all(place.type == "literal" for place in pattern.segments)


def _literals(pattern: PathPattern) -> tuple[str, ...]:
    return tuple(place.literal for place in pattern.segments)


def regex_of(pattern: PathPattern) -> str:
    """A pattern over the canonical text of a path."""
    return "".join(f"/{_segment(place)}" for place in pattern.segments) + ("/.*" if pattern.subtree else "")


def _segment(place: PathSegment) -> str:
    if place.type == "literal":
        text = target_of((place.literal,))[1:]
        return "".join(char if char.isalnum() else f"\\x{ord(char):02x}" for char in text)
    # types have unreserved characters alone, which stand for themselves
    return "[^/]+" if place.type == "any" else f"(?:{SEGMENT_TYPES[place.type].pattern})"


# ---------------------------------------------------------------------- conditions


def _header(variable: Variable, branches: Mapping[int, Json]) -> Json:
    """By the one value of a header; the first class is that of other values and of none."""
    rows = {str(text): branches[i] for i, value in enumerate(variable.values) for text in value.said}
    return exactly(header_input(variable.attribute.removeprefix(HEADER)), rows, branches[0])


def _peers(variable: Variable, branches: Mapping[int, Json]) -> Json:
    """By the smallest network that has the address; an IPv4 address inside IPv6 is that IPv4 address."""
    ranges: list[Json] = []
    for index, value in enumerate(variable.values):
        for network in value.said:
            blocks = [{"address_prefix": address, "prefix_len": length} for address, length in _blocks(network)]
            ranges.append({"ranges": blocks, "on_match": branches[index]})
    rest = branches[0] if variable.has_default else action(DEFAULT_DENY, allows=False)
    if not ranges:
        return rest
    custom = {
        "name": "ip",
        "typed_config": {"@type": f"{TYPE}xds.type.matcher.v3.IPMatcher", "range_matchers": ranges},
    }
    return {"matcher": {"matcher_tree": {"input": PEER_INPUT, "custom_match": custom}, "on_no_match": rest}}


def _blocks(network: object) -> Iterable[tuple[str, int]]:
    assert hasattr(network, "network_address")
    found: Network = network  # type: ignore[assignment]
    yield str(found.network_address), found.prefixlen
    if found.version == 4:
        yield f"::ffff:{found.network_address}", 96 + found.prefixlen
