"""Takes what a workload sends to its sidecar, whatever it meant to reach, and lets nothing else out: root, nftables.

The workload is one control group (version 2), a child of the one it was started in, so of its systemd unit: not a user,
who may run other programs too. TCP is redirected to the sidecar, which reads where it was meant to go; UDP and all else
is rejected but for what was named. The host's own loopback is not the network and stays as it is: explicit ports are
there, and `enforcer.guard` closes the ports of other workloads.

The rules stand in the agent's one table and are written with it, in one transaction. A killed agent's rules go on to
send its workloads' traffic to their sidecars, or to nobody, until its successor writes the table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import pathlib
import sys
from collections.abc import Sequence

from enforcer.egress import Exempt
from enforcer.stamp import unified_root
from mesh.problems import Unavailable

_MOUNTED_AT = "/sys/fs/cgroup"
_TRAMPOLINE = str(pathlib.Path(__file__).parent / "nftmount.py")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Redirected:
    """A workload's control group, below the hierarchy's root, its sidecar's port, and what may leave besides."""

    group: str
    port: int
    exempt: tuple[Exempt, ...] = ()


def chains(redirected: Sequence[Redirected]) -> list[str]:
    """The chains of an `inet` table, as nft reads them; none without workloads.

    1. Connections to the host's loopback pass. All others are redirected to the sidecar, IPv4 and IPv6: one step before
       the usual chains (-100), where Docker's would take a published port of this host first.
    2. What is left after that: loopback, answers to connections that others began, what is named for UDP.
    3. The rest is rejected and counted.
    """
    if not redirected:
        return []
    taken, ways, bodies = [], [], []
    for number, item in enumerate(redirected):
        inside = f'socket cgroupv2 level {len(pathlib.PurePath(item.group).parts)} "{item.group}"'
        taken.append(f"  {inside} meta l4proto tcp redirect to :{item.port}")
        ways.append(f"  {inside} jump workload_{number}")
        bodies += [
            f" chain workload_{number} {{",
            # (2)
            "  ip daddr 127.0.0.0/8 accept",
            "  ip6 daddr ::1 accept",
            "  ct direction reply accept",
            *(f"  {_destination(exempt)} udp dport {exempt.port} accept" for exempt in item.exempt if exempt.is_udp),
            # (3)
            "  counter reject with icmpx type admin-prohibited",
            " }",
        ]
    return [
        *bodies,
        " chain taken { type nat hook output priority -101; policy accept;",
        # (1)
        "  ip daddr 127.0.0.0/8 return",
        "  ip6 daddr ::1 return",
        *taken,
        " }",
        " chain leaving { type filter hook output priority 0; policy accept;",
        *ways,
        " }",
    ]


def _destination(exempt: Exempt) -> str:
    network = ipaddress.ip_network(exempt.what)
    return f"{'ip6' if network.version == 6 else 'ip'} daddr {network}"


def enclose(pid: int, name: str) -> str:
    """Move a process into a control group of its own, below the one it is in; return its path below the root.

    Of a process that has no child and no socket yet: both stay where they were made.
    Raises Unavailable LM3703 when that cannot be done.
    """
    try:
        root = unified_root()
        lines = pathlib.Path(f"/proc/{pid}/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        above = next(line[3:] for line in lines if line.startswith("0::"))
        if not above.isprintable() or '"' in above or ".." in above.split("/"):
            raise Unavailable("LM3703", reason=f"its control group cannot be named: {above!r}")
        group = f"{above.strip('/')}/{name}".strip("/")
        folder = pathlib.Path(root, group)
        folder.mkdir(mode=0o755, exist_ok=True)
        (folder / "cgroup.procs").write_text(str(pid), "ascii")
    except StopIteration as err:
        raise Unavailable("LM3703", reason="it is in no unified control group") from err
    except OSError as err:
        raise Unavailable("LM3703", reason=f"{err.strerror} (errno {err.errno})") from err
    return group


def is_there(group: str) -> bool:
    """Whether a control group still is: nft does not take a table that names one that is not."""
    try:
        return bool(group) and pathlib.Path(unified_root(), group).is_dir()
    except Unavailable:
        return False


def release(group: str) -> None:
    """Remove a control group whose processes are gone; of none there is nothing to remove."""
    if not group:
        return
    with contextlib.suppress(OSError, Unavailable):
        pathlib.Path(unified_root(), group).rmdir()


def command(program: str, *arguments: str) -> list[str]:
    """How nft is executed so that it finds control groups by their path: it looks for them at one place only."""
    try:
        root = unified_root()
    except Unavailable:
        root = _MOUNTED_AT
    if root == _MOUNTED_AT:
        return [program, *arguments]
    return [sys.executable, "-I", "-S", _TRAMPOLINE, root, _MOUNTED_AT, program, *arguments]


def left_out() -> str:
    """Why nothing can be redirected on this host, besides what `enforcer.guard` needs; empty when it can."""
    try:
        unified_root()
    except Unavailable as problem:
        return str(problem.facts["reason"])
    return "" if os.geteuid() == 0 else "without root the kernel does not take rules about other processes"
