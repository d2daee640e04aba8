"""The long tail of link types: scapy dissects what `learner.packets` does not read. Slow, and only on demand."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from learner.packets import TCP, UDP, Frame, Packet


def dissect(frame: Frame, skipped: Counter[str]) -> Packet | None:
    """The transport header of a frame of an unusual link type, by scapy; None and a count when there is none."""
    # scapy warns of missing routes when it is imported; nobody here routes
    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    from scapy.config import conf  # noqa: PLC0415  half a second, and only for unusual captures
    from scapy.layers import inet, inet6, l2, ppp  # noqa: PLC0415, F401  importing registers the link types
    from scapy.layers.dot11 import RadioTap  # noqa: PLC0415, F401

    layer: Any = conf.l2types.get(frame.link)
    if layer is None:
        skipped[f"link type {frame.link}"] += 1
        return None
    try:
        found = layer(frame.data)
        network = found.getlayer(inet.IP) or found.getlayer(inet6.IPv6)
        transport = found.getlayer(inet.TCP) or found.getlayer(inet.UDP)
        if network is None or transport is None:
            skipped["neither TCP nor UDP"] += 1
            return None
        is_tcp = transport.name == "TCP"
        return Packet(
            frame.time_ns,
            _packed(network.src),
            int(transport.sport),
            _packed(network.dst),
            int(transport.dport),
            TCP if is_tcp else UDP,
            int(transport.flags) & 0x3F if is_tcp else 0,
            frame.wire_bytes,
        )
    except Exception:  # noqa: BLE001  scapy raises what its layers raise; a packet that it cannot read is counted
        skipped["malformed"] += 1
        return None


def _packed(text: str) -> bytes:
    import ipaddress  # noqa: PLC0415  beside its one use

    return ipaddress.ip_address(text).packed
