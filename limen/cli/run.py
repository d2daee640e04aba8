"""`limen run`: asks the agent to launch a program as a workload, and ends with its exit code.

The program gets this command's stdin, stdout, stderr, directory and environment. When the agent restarts, the
program ended with it, and is launched again.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import time
from collections.abc import Iterator

import click

from limen import lifecycle
from limen.cli import context, render
from mesh.problems import Invalid, Problem, Unavailable

_AGAIN_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
Row = dict[str, object]


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--name", default=None, help="A label for people; it is never a selector.")
@click.option("--inbound", multiple=True, metavar="[ADDR:]PORT=APPPORT", help="Serve APPPORT at PORT, with mutual TLS.")
@click.option("--outbound", multiple=True, metavar="LOCALPORT=SERVICE[:PORT]", help="A way to SERVICE at LOCALPORT.")
@click.option("--direct", is_flag=True, help="The program asks agent.sock itself; its rule must say `direct: true`.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    name: str | None, inbound: tuple[str, ...], outbound: tuple[str, ...], command: tuple[str, ...], *, direct: bool
) -> int:
    """Launch COMMAND as a workload with its sidecar beside it."""
    lifecycle.die_with_parent()
    message: Row = {
        "type": "launch",
        "argv": list(command),
        "cwd": str(pathlib.Path.cwd()),
        "env": dict(os.environ),
        "name": name or pathlib.PurePath(command[0]).name,
        "inbound": [_inbound(text) for text in inbound],
        "outbound": [_outbound(text) for text in outbound],
        "direct": direct,
    }
    path = context.state() / "control.sock"
    code = _launch(path, message)
    tries = 0
    while code is None:
        render.say("the agent is gone, and the program with it; launching it again when the agent is back")
        code, tries = _launch_again(path, message, tries)
    return code


def _launch(path: pathlib.Path, message: Row) -> int | None:
    """Launch and wait; the exit code, or None when the agent went away.

    Raises Unavailable when no agent answers, and what the agent refuses with.
    """
    from enforcer import control  # noqa: PLC0415  what is heavy comes after the options were read

    with control.connect(path, timeout_s=None) as sock:
        control.send_with_streams(sock, message, (0, 1, 2))
        with _forwarding(sock):
            return _follow(sock)


def _launch_again(path: pathlib.Path, message: Row, tries: int) -> tuple[int | None, int]:
    # no event tells a stranger that an agent will come back: ask again, ever less often
    time.sleep(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
    try:
        return _launch(path, message), 0
    except Unavailable:
        return None, tries + 1


def _follow(sock: socket.socket) -> int | None:
    from enforcer.native import wire  # noqa: PLC0415

    while True:
        try:
            answer = wire.receive(sock)
        except (OSError, Invalid):
            return None
        if answer is None:
            return None
        if answer["type"] == "exited":
            return int(str(answer["code"]))
        if answer["type"] == "failed":
            facts = answer.get("facts")
            known = {str(key): value for key, value in facts.items()} if isinstance(facts, dict) else {}
            raise Problem(str(answer["code"]), span=None, **known)


@contextlib.contextmanager
def _forwarding(sock: socket.socket) -> Iterator[None]:
    """Hand the signals that people send to this command on to the program."""
    from enforcer.native import wire  # noqa: PLC0415

    def forward(number: int, frame: object) -> None:
        del frame
        with contextlib.suppress(OSError):
            wire.send(sock, {"type": "signal", "signal": number})

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _inbound(text: str) -> Row:
    """Read ``[ADDR:]PORT=APPPORT``; an IPv6 address stands in brackets."""
    left, equals, app = text.partition("=")
    address, colon, port = left.rpartition(":")
    if not equals:
        raise Invalid("LM5240", given=text, form="[ADDR:]PORT=APPPORT")
    return {
        "address": address.strip("[]") if colon else "127.0.0.1",
        "port": _port(port, text, "[ADDR:]PORT=APPPORT"),
        "app_port": _port(app, text, "[ADDR:]PORT=APPPORT"),
    }


def _outbound(text: str) -> Row:
    """Read ``LOCALPORT=SERVICE[:PORT]``."""
    form = "LOCALPORT=SERVICE[:PORT]"
    local, equals, rest = text.partition("=")
    service, colon, port = rest.partition(":")
    if not equals or not service:
        raise Invalid("LM5240", given=text, form=form)
    return {
        "local_port": _port(local, text, form),
        "service": service,
        "port": _port(port, text, form) if colon else None,
    }


def _port(text: str, given: str, form: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise Invalid("LM5240", given=given, form=form)
    return int(text)
