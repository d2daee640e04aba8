"""The address of a SPIFFE Workload Endpoint, as `SPIFFE_ENDPOINT_SOCKET` holds it. Pure.

SPIFFE_Workload_Endpoint.md §4: an RFC 3986 URI, `unix:` with an absolute path or `tcp:` with an IP address and a port,
and nothing else. What a path may hold and a URI may not is percent-encoded.
"""

from __future__ import annotations

import ipaddress
import pathlib
import re
import urllib.parse

from mesh.problems import Invalid

VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
_MAX_CHARS = 1024
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_TCP = re.compile(r"(?P<host>[0-9.]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})", re.ASCII)


def target_of(address: str) -> str:
    """Read an address and return it as gRPC wants it.

    1. The scheme is `unix` or `tcp`, in lower case (E-9).
    2. `unix`: no authority, an absolute path without a NUL, no query and no fragment (E-10).
    3. `tcp`: an IP address, with brackets for IPv6, and a port from 1 on, and nothing else (E-11).

    Raises Invalid LM1040.
    """
    # (1)
    scheme, _, rest = address[: _MAX_CHARS + 1].partition(":")
    if len(address) <= _MAX_CHARS and scheme == "unix":
        # (2): an empty authority is none
        path = rest.removeprefix("//")
        is_free = rest.startswith("///") or not rest.startswith("//")
        if is_free and _PATH.fullmatch(path) and not path.startswith("//") and "\0" not in urllib.parse.unquote(path):
            return f"unix:{path}"
    if len(address) <= _MAX_CHARS and scheme == "tcp" and rest.startswith("//"):
        # (3)
        found = _TCP.fullmatch(rest[2:])
        if found and _is_address(found["host"]) and 0 < int(found["port"]) < 65536:
            return f"{'ipv6' if found['host'].startswith('[') else 'ipv4'}:{rest[2:]}"
    raise Invalid("LM1040", given=address[:200])


def uri_of(path: pathlib.Path) -> str:
    """The address of a Unix socket."""
    return f"unix://{urllib.parse.quote(str(path.absolute()))}"


def _is_address(host: str) -> bool:
    try:
        if host.startswith("["):
            return bool(ipaddress.IPv6Address(host[1:-1]))
        return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False
