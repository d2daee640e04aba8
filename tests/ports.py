"""Ports for servers that are told a number and bind it themselves: no other test is given the same one meanwhile."""

import contextlib
import os
import pathlib
import random
import socket

# descriptors of the claims: each is an abstract socket's, which the kernel gives up when this process ends
_claims: list[int] = []
_BELOW = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
# and below those that the demo chooses from
_FIRST, _LAST = (10_000, 20_000) if _BELOW >= 20_000 else (1_025, _BELOW)


def free_port() -> int:
    """A port of all of this host's addresses that nobody binds: free, claimed for as long as this process lives.

    It is below those that the kernel gives to whoever asks for any, so that no connection and no other server comes to
    have it before it is bound.
    """
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many free ports that follow each other."""
    draw = random.Random(os.urandom(8))
    while True:
        first = draw.randrange(_FIRST, _LAST - count)
        with contextlib.ExitStack() as stack:
            claims = []
            try:
                for port in range(first, first + count):
                    claim = stack.enter_context(socket.socket(socket.AF_UNIX))
                    claim.bind(f"\0limen-test-port-{port}")
                    claims.append(claim)
                    with socket.socket() as probe:
                        # what its server will do too: connections that end are in nobody's way
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            _claims.extend(os.dup(claim.fileno()) for claim in claims)
            return first
