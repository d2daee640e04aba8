"""`limen flows capture` and `limen flows sockets`: the traffic of this host, as it is, without anybody's tool.

What reads strangers' bytes may do nothing: all privileges but the one that opens a packet socket are given up at the
start, and that one before the first packet is looked at.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from enforcer.sockdump import Listed, dump_sockets
from learner.bpf import MAX_ONE_IN, compile_program
from learner.live import ANY, MAX_RING_MIB, Ring
from learner.sources import live
from learner.sources.ledger import Ledger
from learner.sources.pcap import Snapshot, flows_of, settle
from learner.sources.sockets import Entry, connections, entry_of
from limen.cli import context, render
from limen.cli.flowtable import show_flows, show_rows
from limen.privileges import CAP_NET_RAW, keep_only
from mesh.clock import SystemClock
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid, Span, Unavailable
from mesh.uncollected import uncollected

if TYPE_CHECKING:
    from learner.capture import Capture
    from learner.hostnames import Hostnames

# more conversations than this would take gigabytes: the capture ends early, and says so
MAX_CONVERSATIONS = 1_000_000


@click.command()
@click.option("--interface", default=ANY, show_default=True, help="The interface, or `any` for all of this host.")
@click.option("--seconds", type=click.FloatRange(0, 86400), help="How long; until SIGINT or SIGTERM without it.")
@click.option("--filter", "text", default="", help="What is looked at, such as `tcp and not port 22`.")
@click.option(
    "--sample", type=click.IntRange(1, MAX_ONE_IN), default=1, show_default=True,
    help="Keep one of so many flows, whole ones.",
)  # fmt: skip
@click.option(
    "--snaplen", type=click.IntRange(96, 65535), default=256, show_default=True, help="Bytes of a packet that are kept."
)
@click.option(
    "--ring", "ring_mib", type=click.IntRange(2, MAX_RING_MIB), default=64, show_default=True,
    help="MiB of packets that wait to be read.",
)  # fmt: skip
@click.option(
    "--sockets/--no-sockets", "asks", default=True, show_default=True,
    help="Ask the kernel who began connections that are older than the capture.",
)  # fmt: skip
@context.output_option("table", "json", "jsonl")
def capture(
    interface: str,
    seconds: float | None,
    text: str,
    sample: int,
    snaplen: int,
    ring_mib: int,
    *,
    asks: bool,
    output: str,
) -> None:
    """Watch the traffic of this host: its conversations, or (jsonl) flows that `limen learn` reads."""
    ledger = Ledger(file=interface, source="live")
    ledger.mark_sampled(sample)
    findings: list[Diagnostic] = []

    def make_filter(network_at: int | None) -> bytes:
        if network_at is not None:
            return compile_program(
                text, network_at=network_at, snaplen=snaplen, one_in=sample, seed=secrets.randbits(32)
            )
        if text.strip() or sample > 1:
            raise Invalid(
                "LM4053", reason="headers of this kind of interface vary in length: neither filter nor sample"
            )
        return compile_program("", network_at=0, snaplen=snaplen)

    with _told_to_end() as is_told, _opened(interface, make_filter, ring_mib) as ring:
        # a table has no place for names
        names = _names() if output == "jsonl" else None
        found, snapshot = _watch(ring, ledger, findings, seconds, is_told, asks=asks, names=names)
    ledger.gaps += ring.gaps
    ledger.lost += ring.dropped
    known = frozenset((flow.protocol, *_ends(flow)) for flow in snapshot)
    rows = settle(found, found.table.rows(), findings, ledger, Snapshot(known))
    _limits(ledger, findings)
    if output != "jsonl":
        show_rows(rows, output)
        return
    flows = list(flows_of(rows, ledger, "live", found.names))
    if interface == ANY and sample == 1 and not text.strip():
        # connections that said nothing meanwhile; a part of the traffic does not show which of them are its
        said = {
            (row.protocol, (row.source_ip, row.source_port), (row.destination_ip, row.destination_port)) for row in rows
        }
        flows += [flow for flow in snapshot if (flow.protocol, *_ends(flow)) not in said]
    for row in live.rows_of(ledger, flows):
        render.row(row)


@click.command()
@context.output_option("table", "json", "jsonl")
def sockets(output: str) -> None:
    """List the connections of this host's sockets, callers first: those that began before anybody watched too."""
    ledger = Ledger(file="sockets", source="sockets")
    found = snapshot_of(ledger)
    _limits(ledger, [])
    if output != "jsonl":
        show_flows(found, output)
        return
    for row in live.rows_of(ledger, found):
        render.row(row)


def snapshot_of(ledger: Ledger) -> list[Flow]:
    """The connections of this network namespace's sockets now.

    Raises Unavailable LM3411 when the kernel does not answer.
    """
    return connections([item for item in map(_entry, dump_sockets()) if item is not None], SystemClock().now(), ledger)


def _entry(item: Listed) -> Entry | None:
    try:
        return entry_of(item.protocol, item.state, item.local, item.peer)
    except ValueError:
        # a state of a newer kernel
        return None


@contextlib.contextmanager
def _told_to_end() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came: both end a capture, and what was captured is shown."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: told.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _opened(interface: str, make_filter: Callable[[int | None], bytes], ring_mib: int) -> Iterator[Ring]:
    """A ring, and nothing left of this process's privileges.

    1. What is needed later is imported now, by who may still read it; without threads, which would keep privileges.
    2. All but CAP_NET_RAW are given up.
    3. The ring.
    4. CAP_NET_RAW too.
    """
    try:
        # (1)
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import learner.capture  # noqa: PLC0415
        import learner.ring  # noqa: PLC0415

        # (2)
        keep_only({CAP_NET_RAW})
        # (3)
        ring = Ring(interface, make_filter, ring_mib=ring_mib)
        if ring.link not in {1, 101}:
            import learner.dissect  # noqa: PLC0415, F401
        with ring:
            # (4)
            keep_only()
            yield ring
    except OSError as err:
        raise Unavailable("LM4054", reason=err.strerror or str(err)) from err


def _watch(
    ring: Ring,
    ledger: Ledger,
    findings: list[Diagnostic],
    seconds: float | None,
    is_told: Callable[[], bool],
    *,
    asks: bool,
    names: Hostnames | None = None,
) -> tuple[Capture, list[Flow]]:
    """Read the ring until the time is up, somebody says so, or there are too many conversations.

    The sockets are asked when the ring is open: what begins meanwhile is seen by both, and nothing by neither.
    """
    from learner.capture import Capture  # noqa: PLC0415  numpy is for those who read a capture
    from learner.ring import read_blocks  # noqa: PLC0415  the same

    end = None if seconds is None else time.monotonic() + seconds
    snapshot = snapshot_of(Ledger(file="sockets", source="sockets")) if asks else []
    found = Capture(ledger.file, ledger.skipped, names=names)
    render.progress(f"watching {ledger.file}" + ("; end it with Ctrl-C" if end is None else f" for {seconds:g} s"))

    def is_over() -> bool:
        return len(found.table) > MAX_CONVERSATIONS or is_told() or (end is not None and time.monotonic() >= end)

    # many conversations and no garbage
    with uncollected():
        ledger.lost += read_blocks(ring.blocks(is_over), found, ring.link, is_cooked=ring.is_cooked)
    if len(found.table) > MAX_CONVERSATIONS:
        place = Span(file=ledger.file, line=1, column=1)
        findings.append(Diagnostic(code="LM4055", span=place, facts={"count": MAX_CONVERSATIONS}))
    return found, snapshot


def _names() -> Hostnames:
    from learner.hostnames import Hostnames  # noqa: PLC0415  numpy is for those who read a capture

    return Hostnames()


def _ends(flow: Flow) -> tuple[tuple[str, int], tuple[str, int]]:
    return (
        (flow.source_ip or "", flow.source_port or 0),
        (flow.destination_ip or "", flow.destination_port),
    )


def _limits(ledger: Ledger, findings: list[Diagnostic]) -> None:
    """Say what was found, and what keeps it from being all of the traffic."""
    if limits := ledger.limits():
        place = Span(file=ledger.file, line=1, column=1)
        findings.append(Diagnostic(code="LM4015", span=place, facts={"limits": "; ".join(limits)}))
    render.diagnostics(findings)
