"""Health checks from outside the mesh: one path of a workload, at a port of its own, for named networks. Pure.

Written as `[ADDR:]PORT=APPPORT/PATH@NETWORK[,NETWORK]…`; an IPv6 address stands in brackets. Who checks has no
identity, so that nothing but the address tells who it is: a network that every address is in is refused.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from mesh.problems import Invalid

MAX_CHECKS = 16
MAX_NETWORKS = 64
FORM = "[ADDR:]PORT=APPPORT/PATH@NETWORK[,NETWORK]"
_SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_FORM = re.compile(
    r"(?:(?P<address>\[[0-9a-fA-F:]+\]|[0-9.]+):)?(?P<port>[0-9]{1,5})=(?P<app>[0-9]{1,5})"
    rf"(?P<path>/|(?:/{_SEGMENT})+/?)@(?P<networks>[0-9a-fA-F.:/,]+)\Z",
    re.ASCII,
)
_MAX_TEXT = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What may be asked at a port, and from where; ``networks`` are as `ipaddress` writes them."""

    address: str
    port: int
    app_port: int
    path: str
    networks: tuple[str, ...]

    def covers(self, address: str) -> bool:
        """Whether somebody at an address may ask."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(found in ipaddress.ip_network(network) for network in self.networks)


def parse_check(text: str) -> Check:
    """Read one. Without an address it is for checks on this host alone.

    Raises Invalid LM3705.
    """
    found = _FORM.match(text) if len(text) <= _MAX_TEXT else None
    if found is None:
        raise Invalid("LM3705", text=text[:300])
    port, app_port = int(found["port"]), int(found["app"])
    try:
        address = str(ipaddress.ip_address((found["address"] or "127.0.0.1").strip("[]")))
        networks = [ipaddress.ip_network(name) for name in found["networks"].split(",")]
    except ValueError as err:
        raise Invalid("LM3705", text=text[:300]) from err
    is_narrow = len(networks) <= MAX_NETWORKS and all(network.prefixlen for network in networks)
    if not (0 < port < 65536 and 0 < app_port < 65536 and is_narrow):
        raise Invalid("LM3705", text=text[:300])
    return Check(address=address, port=port, app_port=app_port, path=found["path"], networks=tuple(map(str, networks)))


def write_check(check: Check) -> str:
    """The text that `parse_check` reads."""
    address = f"[{check.address}]" if ":" in check.address else check.address
    return f"{address}:{check.port}={check.app_port}{check.path}@{','.join(check.networks)}"
