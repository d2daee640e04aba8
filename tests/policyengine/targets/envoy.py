"""Envoy's unified matcher as its documentation has it: the first predicate, the exact text, the longest prefix.

A matcher inside that finds nothing lets Envoy go on outside; what is exported never does that, and `decide` insists.
"""

from __future__ import annotations

import ipaddress
import re

from mesh.request import Request


def inputs_of(request: Request, *, source=None):
    """What Envoy sees of a request whose framing is right: one text for each input, None for none."""
    headers = {}
    # without the white space around values (RFC 9112 §5.1)
    for name, value in ((name, value.strip(" \t")) for name, value in request.headers):
        held = headers.get(name.lower())
        headers[name.lower()] = value if held is None else f"{held},{value}"
    host = request.host
    if host is not None:  # strip_any_host_port, strip_trailing_host_dot
        host = re.sub(r":[0-9]+$", "", host)
        host = host.removesuffix(".")
    path, mark, query = (request.path or "").partition("?")  # merge_slashes
    whole = None if request.path is None else re.sub("/+", "/", path) + mark + query
    headers |= {":method": request.method, ":authority": host, ":path": whole}
    return {
        "uri-san": request.source if source is None else source,
        "path": None if whole is None else whole.partition("?")[0],
        "peer": request.peer_ip,
        "headers": headers,
    }


def decide(matcher, seen):
    """The name and the action that a matcher comes to."""
    found = _matcher(matcher, seen)
    assert found is not None, "every matcher has an answer"
    return found["name"], found["typed_config"]["action"]


def _matcher(matcher, seen):
    branch = None
    if "matcher_list" in matcher:
        rows = matcher["matcher_list"]["matchers"]
        branch = next((row["on_match"] for row in rows if _holds(row["predicate"], seen)), None)
    else:
        tree = matcher["matcher_tree"]
        text = _value(tree["input"], seen)
        if text is not None and "exact_match_map" in tree:
            branch = tree["exact_match_map"]["map"].get(text)
        elif text is not None and "prefix_match_map" in tree:
            rows = tree["prefix_match_map"]["map"]
            longest = max((key for key in rows if text.startswith(key)), key=len, default=None)
            branch = None if longest is None else rows[longest]
        elif text is not None:
            branch = _network(tree["custom_match"]["typed_config"]["range_matchers"], text)
    return _on_match(matcher["on_no_match"] if branch is None else branch, seen)


def _on_match(branch, seen):
    if "action" in branch:
        return branch["action"]
    found = _matcher(branch["matcher"], seen)
    assert found is not None, "Envoy would go back here"
    return found


def _network(rows, text):
    address = ipaddress.ip_address(text)
    best = None
    for row in rows:
        for block in row["ranges"]:
            network = ipaddress.ip_network(f"{block['address_prefix']}/{block['prefix_len']}")
            fits = network.version == address.version and address in network
            if fits and (best is None or network.prefixlen > best[0]):
                best = network.prefixlen, row["on_match"]
    return None if best is None else best[1]


def _value(where, seen):
    name = where["name"]
    if where["typed_config"]["@type"].endswith("HttpRequestHeaderMatchInput"):
        return seen["headers"].get(where["typed_config"]["header_name"])
    return seen[name]


def _holds(predicate, seen):
    if "not_matcher" in predicate:
        return not _holds(predicate["not_matcher"], seen)
    if "and_matcher" in predicate:
        return all(_holds(part, seen) for part in predicate["and_matcher"]["predicate"])
    single = predicate["single_predicate"]
    text = _value(single["input"], seen)
    if text is None:
        return False
    match = single["value_match"]
    if "safe_regex" in match:
        regex = match["safe_regex"]["regex"].replace(r"\C", r"(?s:.)")
        return re.fullmatch(regex, text) is not None
    if match.get("ignore_case"):
        text = text.lower()
    if "exact" in match:
        return text == match["exact"]
    if "suffix" in match:
        return text.endswith(match["suffix"])
    if "prefix" in match:
        return text.startswith(match["prefix"])
    return match["contains"] in text
