"""Closes the way past the sidecar: with root and nft, only a workload's own sidecar reaches the application's port.

One nftables table per agent, written as a whole on every change and removed at the end. Its name is the agent's for
good: what a killed agent left keeps guarding until its successor replaces it, in one transaction. Without root or nft
nothing is written, and `left_out` says why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from enforcer.redirect import Redirected, chains, command
from mesh.problems import Unavailable

FIRST_UID = 61184
LAST_UID = 65519
_WITHIN_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """An application's port, the user its sidecar runs as, and where that sidecar itself listens."""

    app_port: int
    sidecar_uid: int
    listener: tuple[str, int]


def left_out() -> str:
    """Why this host cannot guard application ports; empty when it can."""
    if os.geteuid() != 0:
        return "without root the kernel does not take rules about other processes"
    if shutil.which("nft") is None:
        return "the nft command is not installed"
    return ""


def table_name(folder: pathlib.Path) -> str:
    """The name of an agent's table: the same for every run from one state directory, and for no other."""
    return "limen_" + hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def table(name: str, guarded: Sequence[Guarded], redirected: Sequence[Redirected] = ()) -> str:
    """The rules, as nft reads them.

    1. The table is made anew: what was there before is gone in the same transaction.
    2. Where a sidecar itself listens on the same port number, connections to that address pass.
    3. On loopback, a connection to an application's port passes only from its sidecar's user.
    4. From other interfaces nothing reaches an application's port.
    5. No sidecar speaks UDP: datagrams to that number, an application's own HTTP/3, are closed to all, on loopback and
       from elsewhere. Answers to what a program of this host sent from there pass. They are accepted by name and the
       rest is closed, so that what the kernel does not track is closed too.
    6. What redirected workloads send (`enforcer.redirect`).
    """
    outgoing, incoming = [], []
    listeners = sorted({item.listener for item in guarded})
    ports = {item.app_port for item in guarded}
    for address, port in listeners:
        if port in ports:
            family = "ip6" if ":" in address else "ip"
            outgoing.append(f"{family} daddr {address} tcp dport {port} accept")  # (2)
            incoming.append(f"{family} daddr {address} tcp dport {port} accept")
    for item in guarded:
        # (3)
        outgoing.append(
            f'oifname "lo" tcp dport {item.app_port} meta skuid != {item.sidecar_uid} reject with tcp reset'
        )
        incoming.append(f'iifname != "lo" tcp dport {item.app_port} drop')  # (4)
    for port in sorted(ports):
        # (5)
        outgoing.append(f'oifname "lo" udp dport {port} ct direction reply accept')
        outgoing.append(f'oifname "lo" udp dport {port} reject')
        incoming.append(f'iifname != "lo" udp dport {port} ct direction reply accept')
        incoming.append(f'iifname != "lo" udp dport {port} drop')
    body = "\n".join(
        [
            f"table inet {name}",
            f"delete table inet {name}",  # (1)
            f"table inet {name} {{",
            " chain output { type filter hook output priority 0; policy accept;",
            *(f"  {rule}" for rule in outgoing),
            " }",
            " chain input { type filter hook input priority 0; policy accept;",
            *(f"  {rule}" for rule in incoming),
            " }",
            *chains(redirected),  # (6)
            "}",
        ]
    )
    return body + "\n"


def apply(name: str, guarded: Sequence[Guarded], redirected: Sequence[Redirected] = ()) -> None:
    """Write the table.

    Raises Unavailable LM3702 when nft refuses.
    """
    _nft(table(name, guarded, redirected))


def remove(name: str) -> None:
    """Remove the table, if it is there."""
    _nft(f"table inet {name}\ndelete table inet {name}\n")


def _nft(text: str) -> None:
    program = shutil.which("nft")
    if program is None:
        raise Unavailable("LM3702", reason="the nft command is not installed")
    try:
        done = subprocess.run(  # noqa: S603  a fixed program, rules made of numbers and addresses
            command(program, "-f", "-"), input=text.encode(), capture_output=True, timeout=_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise Unavailable("LM3702", reason=str(err)) from err
    if done.returncode != 0:
        raise Unavailable("LM3702", reason=done.stderr.decode(errors="replace").strip()[:300])
