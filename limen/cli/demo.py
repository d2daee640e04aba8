"""`limen demo`: the whole loop with real processes, real TLS and real traffic on loopback."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
import signal
import tempfile

import click

from limen.cli import context, render
from limen.demo.story import Demo, Summary
from mesh.clock import SystemClock


@click.command()
@click.option(
    "--seconds", default=12.0, show_default=True, type=click.FloatRange(3, 3600), help="How long to watch traffic."
)
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
@context.output_option("table", "json")
def demo(seconds: float, keep: bool, output: str) -> int:  # noqa: FBT001  a flag of the command line
    """Run the whole loop with real processes, and attack it."""
    root, is_ours = _root()
    try:
        return asyncio.run(_run(root, seconds=seconds, keep=keep, output=output))
    finally:
        if is_ours:
            shutil.rmtree(root, ignore_errors=True)


def _root() -> tuple[pathlib.Path, bool]:
    """Where the demo's state goes, and whether to remove it at the end."""
    if context.is_state_given():
        root = context.state()
        root.mkdir(parents=True, exist_ok=True)
        return root, False
    # short: socket paths are limited to 107 bytes
    return pathlib.Path(tempfile.mkdtemp(prefix="limen-demo-")), True


async def _run(root: pathlib.Path, *, seconds: float, keep: bool, output: str) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    story = Demo(root, clock=SystemClock(), seconds=seconds, say=render.say)
    try:
        summary = await story.run()
        _show(summary, output)
        if keep:
            _show_next(root)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        render.say("stopping the demo's processes")
        return 130
    finally:
        # a second Ctrl-C must not leave processes behind
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        while task.uncancel() > 0:
            continue
        await story.stop()
    return 0 if summary.is_good else 1


def _show(summary: Summary, output: str) -> None:
    if output == "json":
        render.data(summary.to_json())
        return
    found = summary.to_json()
    denied = sum(1 for row in summary.attacks if row["denied"])
    rows: list[tuple[str, object]] = [
        ("identities", f"{found['identities']} workloads, no entry for any of them"),
        ("mutual TLS", f"{found['handshakes']} handshakes, both sides verified"),
        ("learned", f"{summary.proposal['rules']} rules from {found['flows']} flows"),
        ("risk", f"the next session is uncovered with probability ≤ {summary.proposal['session_bound_95']:.3g} (95 %)"),
        ("approvals", f"{found['approvals']} signatures of two reviewers"),
        ("customers", f"{summary.legitimate['allowed']} of {summary.legitimate['sent']} requests answered"),
        ("attacks", f"{denied} of {len(summary.attacks)} denied, each with its reason"),
        ("audit", f"{summary.audit['records']} records, verified: {summary.audit['verified']}"),
        ("left out", ", ".join(row["name"] for row in summary.left_out) or "nothing"),
        ("time", f"{summary.seconds} s"),
    ]
    render.table(rows, ("what", "result"))


def _show_next(root: pathlib.Path) -> None:
    orders = "spiffe://demo.limen.test/ns/shop/sa/cart"
    render.say("everything is still running; try, in another terminal:")
    for line in (
        f"limen --state {root} can web cart DELETE /carts/3f0c9d7e-6c2f-4b0e-9a55-1d2f7b1c9e10",
        f"limen --state {root} can {orders} payments GET /payments/1",
        f"limen --state {root} audit tail",
        f"limen --state {root} status",
        f"limen --state {root} policy plan --policies {root}/shop/policies --against active",
    ):
        render.say(f"  {line}")
    render.say("Ctrl-C ends it")
