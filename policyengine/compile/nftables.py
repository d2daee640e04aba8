"""nftables from a policy set: which addresses may open connections to the declared ports of a host's workloads.

A firewall knows addresses. A caller is its addresses of the list of workloads; an address that two identities share
opens only what both may. What asks for more than caller, port and address is refused. The table touches only
connections to the declared ports of workloads with an address: everything else on the host is as it was.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from mesh.spiffe import SpiffeId, TrustDomain
from policyengine.compile.allowed import Piece
from policyengine.compile.boxes import Box
from policyengine.compile.export import Export, Findings, Workloads, allowed_for, unsayable_at_l4
from policyengine.model import PolicySet

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TABLE = "limen_policy"


def compile_nftables(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """One file for `nft -f` that replaces the table `inet limen_policy`.

    1. EVERY called workload with an address gets, per declared port, its callers' addresses and a drop behind them.
    2. An address of several called workloads opens only what all of them allow it.
    3. Connections that are established go on: what was revoked ends when they end.
    """
    del domain
    every: dict[str, Findings] = {}
    callers = _callers(workloads)
    opened: dict[tuple[Address, int], set[Address]] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        pieces = [piece for piece in allowed_for(policies, service, findings).allows if _is_sayable(piece, findings)]
        for piece in pieces:
            _note_unknown(piece, workloads, findings)
        homes = [address for pattern in service.identities for address in _addresses(pattern.matches, workloads)]
        if not homes:
            findings.unmapped(service.name, "no called workload has an address in the list", service.span)
        findings.needs("an address is one workload's: whoever can take it over is taken for that workload")
        # (1)
        for home in sorted(set(homes), key=_order):
            for port in service.ports:
                boxes = [piece.box for piece in pieces if piece.port == port.port]
                allowed = {
                    address
                    for address, identities in callers.items()
                    if address.version == home.version and all(_may(boxes, who, address) for who in identities)
                }
                key = (home, port.port)
                # (2)
                opened[key] = opened[key] & allowed if key in opened else allowed
    findings_of = {name: item.all() for name, item in every.items()}
    notes = [item for found in findings_of.values() for item in found]
    return Export(
        files=(("limen.nft", _text(opened, [f"{item.code}: {item.message}" for item in notes])),), findings=findings_of
    )


def _is_sayable(piece: Piece, findings: Findings) -> bool:
    reason = unsayable_at_l4(piece.box, addresses=True)
    if reason is not None:
        findings.refuse(piece, reason)
    return reason is None


def _note_unknown(piece: Piece, workloads: Workloads, findings: Findings) -> None:
    """Say which callers have no address; whoever is not in the list cannot connect."""
    inside = piece.box.callers.inside
    if inside is None or any(pattern.subtree for pattern in inside):
        findings.stricter(
            f"{piece.policy}/{piece.rule}", "only the workloads of the list are allowed there", piece.span
        )
    for pattern in inside or ():
        if not _addresses(pattern.matches, workloads):
            findings.unmapped(pattern, "no workload of the list has this identity and an address", piece.span)


def _addresses(is_meant: object, workloads: Workloads) -> list[Address]:
    assert callable(is_meant)
    return [
        ipaddress.ip_address(text)
        for identity, item in sorted(workloads.items())
        if is_meant(identity)
        for text in item.addresses
    ]


def _callers(workloads: Workloads) -> dict[Address, list[SpiffeId]]:
    """Who lives at each address."""
    found: dict[Address, list[SpiffeId]] = {}
    for identity, item in sorted(workloads.items()):
        for text in item.addresses:
            found.setdefault(ipaddress.ip_address(text), []).append(identity)
    return found


def _may(boxes: Iterable[Box], who: SpiffeId, address: Address) -> bool:
    """Whether some piece holds a connection of a caller from an address."""
    for box in boxes:
        callers, peers = box.callers, box.peers
        inside = callers.inside is None or any(pattern.matches(who) for pattern in callers.inside)
        outside = any(pattern.matches(who) for pattern in callers.outside)
        near = peers.inside is None or any(address in network for network in peers.inside)
        far = any(address in network for network in peers.outside)
        if inside and not outside and near and not far:
            return True
    return False


def _order(address: Address) -> tuple[int, int]:
    return (address.version, int(address))


def _text(opened: dict[tuple[Address, int], set[Address]], notes: list[str]) -> str:
    lines = ["#!/usr/sbin/nft -f", "# What Limen says about connections to these addresses."]
    lines += [f"# {note}" for note in notes]
    # the first line makes the table if it is not there, so that the second never fails
    lines += [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{", "  chain connections {"]
    # (3)
    lines += ["    ct state established,related accept"]
    for home, port in sorted(opened, key=lambda key: (_order(key[0]), key[1])):
        family = "ip" if home.version == 4 else "ip6"
        callers = sorted(opened[home, port], key=_order)
        to = f"{family} daddr {home} tcp dport {port}"
        if callers:
            lines.append(f"    {to} {family} saddr {{ {', '.join(map(str, callers))} }} accept")
        lines.append(f"    {to} drop")
    lines += ["  }"]
    for hook in ("input", "forward"):
        lines += [
            f"  chain {hook} {{",
            f"    type filter hook {hook} priority filter; policy accept;",
            "    jump connections",
            "  }",
        ]
    return "\n".join([*lines, "}", ""])
