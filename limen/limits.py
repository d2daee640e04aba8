"""How much of us a caller nobody knows may use: a bucket of tries for each address, and not more addresses than fit.

Plain state with no I/O and no clock. IPv6 callers count by their /64, which is what one host is given.
"""

from __future__ import annotations

import ipaddress

MAX_PEERS = 4096
CONNECT_RATE, CONNECT_BURST = 50.0, 500
"""How often one address may connect to a port of ours, unless somebody says otherwise. Each handshake costs a
signature; many hosts behind one address may come back at once, then so many a second."""


class PeerLimits:
    """``burst`` tries at once, ``rate`` more a second, for every address, which is given as the socket says it."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, peer: str, moment: float, cost: float = 1.0) -> bool:
        """Take tries out of a peer's bucket; False when it holds too few. ``moment`` is in monotonic seconds."""
        name = peer_name(peer)
        left, then = self._buckets.pop(name, (self._burst, moment))
        left = min(self._burst, left + max(0.0, moment - then) * self._rate)
        is_enough = left >= cost
        # at the end: the addresses that were silent longest are forgotten first
        self._buckets[name] = (left - cost if is_enough else left, moment)
        if len(self._buckets) > MAX_PEERS:
            del self._buckets[next(iter(self._buckets))]
        return is_enough


def peer_name(peer: str) -> str:
    """The name under which an address counts."""
    try:
        found = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
