"""`limen run`: launches a program as a workload, together with the agent, and ends with its exit code.

The program is a child of this command: it has its stdin, stdout, stderr, directory and environment, its control group,
limits and namespaces. When the agent goes away, the program goes on, and this command comes back to the next agent with
it; one that cannot go on with it has it launched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import grp
import os
import pathlib
import pwd
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Self

import click

from limen import lifecycle
from limen.cli import context, render
from mesh.problems import Forbidden, Invalid, NotFound, Problem, Unavailable

if TYPE_CHECKING:
    from enforcer.launch import Order, Prepared

_AGAIN_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_STOP_WITHIN_S = 5.0
_NOT_HERE = "LM3462"
SDK_SOCKET = "LIMEN_SDK_SOCKET"  # `enforcer.sdk` finds its agent by it
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
Row = dict[str, object]


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--name", default=None, help="A label for people; it is never a selector.")
@click.option("--inbound", multiple=True, metavar="[ADDR:]PORT=APPPORT", help="Serve APPPORT at PORT, with mutual TLS.")
@click.option("--outbound", multiple=True, metavar="LOCALPORT=SERVICE[:PORT]", help="A way to SERVICE at LOCALPORT.")
@click.option(
    "--health",
    multiple=True,
    metavar="[ADDR:]PORT=APPPORT/PATH@NETWORK[,NETWORK]",
    help="Answer health checks of PATH from these networks at PORT, without mutual TLS and with a status alone.",
)
@click.option("--direct", is_flag=True, help="The program asks agent.sock itself; its rule must say `direct: true`.")
@click.option("--sdk", is_flag=True, help="No sidecar: the program enforces by itself, with `enforcer.sdk`.")
@click.option("--user", default=None, help="Run the program as this user, with the user's groups. Root may say this.")
@click.option("--group", default=None, help="Its primary group, instead of the user's own.")
@click.option(
    "--intercept", is_flag=True, help="Redirect all it sends to its sidecar; deny what --egress does not name."
)
@click.option(
    "--egress",
    multiple=True,
    metavar="WHAT",
    help="With --intercept: service:NAME[:PORT], dns:NAME:PORT (TLS), cidr:NETWORK[:PORT] or udp:NETWORK:PORT.",
)
@click.option(
    "--keep-env",
    multiple=True,
    metavar="NAME",
    help="Let the program have this variable although it loads code, such as LD_PRELOAD or PYTHONPATH.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many sidecars share its ports; one uses one core at most.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    name: str | None,
    inbound: tuple[str, ...],
    outbound: tuple[str, ...],
    health: tuple[str, ...],
    command: tuple[str, ...],
    user: str | None,
    group: str | None,
    egress: tuple[str, ...],
    keep_env: tuple[str, ...],
    *,
    direct: bool,
    intercept: bool,
    sdk: bool,
    workers: int,
) -> int:
    """Launch COMMAND as a workload with its sidecar beside it."""
    lifecycle.die_with_parent()
    if sdk and (outbound or health or intercept):
        raise Invalid("LM5247")
    message: Row = {
        "type": "launch",
        "name": name or pathlib.PurePath(command[0]).name,
        "inbound": [(_listening if sdk else _inbound)(text) for text in inbound],
        "outbound": [_outbound(text) for text in outbound],
        "health": _health(health),
        "direct": direct,
        "sdk": sdk,
        "keep_env": list(keep_env),
        "intercept": intercept,
        "egress": _egress(egress, is_used=intercept),
        "workers": workers,
    }
    order, left_out = _order(command, user, group, keep_env)
    if left_out:
        render.say(f"LM3436 the program does without what has it load code nobody hashed: {', '.join(left_out)}")
    path = context.state() / "control.sock"
    if sdk:
        socket_path = (path.parent / "sidecars.sock").absolute()
        order = dataclasses.replace(order, env={**order.env, SDK_SOCKET: str(socket_path)})
    code = _launch(path, message, order)
    tries = 0
    while code is None:
        if tries == 0:
            render.say("the agent is gone, and the program with it; launching it again when the agent is back")
        code, tries = _launch_again(path, message, order, tries)
    return code


def _egress(texts: tuple[str, ...], *, is_used: bool) -> list[str]:
    """What may be reached, as it was read; nothing is exempt from what is not done. Raises Invalid LM3704, LM5246."""
    from enforcer.egress import parse_exempt, write_exempt  # noqa: PLC0415

    if texts and not is_used:
        raise Invalid("LM5246")
    return [write_exempt(parse_exempt(text)) for text in texts]


def _health(texts: tuple[str, ...]) -> list[str]:
    """The health checks that are answered, as they were read. Raises Invalid LM3705."""
    from enforcer.health import parse_check, write_check  # noqa: PLC0415

    return [write_check(parse_check(text)) for text in texts]


def _order(
    command: tuple[str, ...], user: str | None, group: str | None, kept: tuple[str, ...]
) -> tuple[Order, tuple[str, ...]]:
    """What to execute, as whom, and the variables that it does without: see `enforcer.loading`.

    Raises Forbidden LM5244 for another user without root, Invalid LM5245 for one that is not there.
    """
    from enforcer.launch import Order  # noqa: PLC0415  what is heavy comes after the options were read
    from enforcer.loading import without  # noqa: PLC0415

    (env, left_out), uid, gid = without(os.environ, kept), os.geteuid(), os.getegid()
    if (user or group) and uid != 0:
        raise Forbidden("LM5244")
    wanted = user
    try:
        if user:
            found = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
            uid, gid = found.pw_uid, found.pw_gid
            env |= {"USER": found.pw_name, "LOGNAME": found.pw_name, "HOME": found.pw_dir, "SHELL": found.pw_shell}
        wanted = group
        if group:
            gid = int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
    except (KeyError, OverflowError) as err:
        raise Invalid("LM5245", name=wanted) from err
    order = Order(argv=command, cwd=str(pathlib.Path.cwd()), env=env, uid=uid, gid=gid, streams=(0, 1, 2))
    return order, left_out


def _launch(path: pathlib.Path, message: Row, order: Order) -> int | None:
    """Launch and wait; the exit code, or None when the agent went away.

    1. The agent is handed the open files, hashes them and starts a sidecar.
    2. The program is begun, and held where its image begins to run; the agent records it.
    3. It runs, under one agent after the other; the agent says when it and all of its session have ended.

    Raises Unavailable when no agent answers, and what the agent refuses with.
    """
    from enforcer import control, launch  # noqa: PLC0415

    prepared = launch.prepare(order)
    try:
        with control.connect(path, timeout_s=None) as sock, _Signals() as signals:
            # (1)
            # one that ends while it is asked is gone as one that ended before it answered
            with contextlib.suppress(OSError):
                control.send_with_handles(sock, message, prepared.handles)
            if not _is_told(sock, "begin"):
                return None
            # (2)
            signals.hold()
            with _begun(order, prepared) as child:
                with launch.held(child.pid):
                    handle = os.pidfd_open(child.pid)
                    # an agent that could not begin has hung up, and its reason waits to be read
                    with contextlib.suppress(OSError):
                        control.send_with_handles(sock, {"type": "begun"}, (handle,))
                    os.close(handle)
                    if not _is_told(sock, "launched"):
                        return None
                # (3)
                signals.send_to(child.pid)
                return _stay(path, sock, child, signals)
    except _SignalledError as signalled:
        return 128 + signalled.number
    finally:
        prepared.close()


def _stay(path: pathlib.Path, sock: socket.socket, child: subprocess.Popen[bytes], signals: _Signals) -> int | None:
    """Stay with a program until it ended; its exit code, or None when an agent cannot go on with it."""
    from enforcer import session  # noqa: PLC0415

    handle = os.pidfd_open(child.pid)
    try:
        with contextlib.ExitStack() as agents:
            signals.agent = sock
            is_running = not _is_told(sock, "ended")
            while is_running:
                signals.agent_is_gone()
                render.say("the agent is gone; the program goes on until the next one is there")
                found = _come_back(path, handle)
                if found is None:
                    # what it started ends with it, as an agent would have seen to
                    asyncio.run(session.end(child.pid, _STOP_WITHIN_S))
                    break
                signals.agent = agents.enter_context(found)
                is_running = not _is_told(found, "ended")
    except NotFound:
        return None
    finally:
        os.close(handle)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _come_back(path: pathlib.Path, handle: int) -> socket.socket | None:
    """Come to the next agent with a running program; None when the program ends first."""
    from enforcer import control  # noqa: PLC0415

    tries = 0
    # no event tells a stranger that an agent will come back: ask again, ever less often
    while not select.select([handle], [], [], _AGAIN_S[min(tries, len(_AGAIN_S) - 1)])[0]:
        tries += 1
        with contextlib.suppress(Unavailable, OSError):
            sock = control.connect(path, timeout_s=None)
            try:
                control.send_with_handles(sock, {"type": "resume"}, (handle,))
            except OSError:
                sock.close()
                raise
            return sock
    return None


@contextlib.contextmanager
def _begun(order: Order, prepared: Prepared) -> Iterator[subprocess.Popen[bytes]]:
    """The program; whatever is left of it and its session ends with the block."""
    from enforcer import launch, session  # noqa: PLC0415

    child = launch.begin(order, prepared)
    try:
        yield child
    finally:
        # not reaped before: its number is the session's
        if child.returncode is None:
            asyncio.run(session.end(child.pid, _STOP_WITHIN_S))
            child.wait()


def _launch_again(path: pathlib.Path, message: Row, order: Order, tries: int) -> tuple[int | None, int]:
    # no event tells a stranger that an agent will come back: ask again, ever less often
    time.sleep(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
    try:
        return _launch(path, message, order), 0
    except Unavailable:
        return None, tries + 1


def _is_told(sock: socket.socket, wanted: str) -> bool:
    """Wait for a word of the agent's; False when it is gone. Why the program has no identity is said in between.

    Raises what the agent refuses with.
    """
    from enforcer.native import wire  # noqa: PLC0415

    while True:
        try:
            answer = wire.receive(sock)
        except (OSError, Invalid):
            return False
        if answer is None:
            return False
        if answer["type"] == "refused":
            # the program runs, and has an identity as soon as a rule gives it one
            render.diagnostics([_problem(answer).diagnostic()])
            continue
        if answer["type"] == "failed":
            raise _problem(answer)
        return answer["type"] == wanted


def _problem(answer: Mapping[str, object]) -> Problem:
    facts = answer.get("facts")
    known = {str(key): value for key, value in facts.items()} if isinstance(facts, dict) else {}
    kind = NotFound if answer["code"] == _NOT_HERE else Problem
    return kind(str(answer["code"]), span=None, **known)


def _is_sent(agent: socket.socket) -> bool:
    """Ask the agent to end the workload; False when it cannot be asked now."""
    from enforcer.native import wire  # noqa: PLC0415

    try:
        return agent.send(wire.encode({"type": "end"}), socket.MSG_DONTWAIT) > 0
    except OSError:
        return False


class _SignalledError(Exception):
    """A signal came while there was no program yet."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """Hands the signals that people send to this command on to the program.

    Without a program they end this command; while one is begun they wait. The first SIGTERM goes by the agent, which
    sees to it that callers get their answers before the program is told.
    """

    def __init__(self) -> None:
        self._pid = 0
        self.agent: socket.socket | None = None
        self._is_asked = False
        self._is_held = False
        self._waiting: list[int] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in _FORWARDED}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` returned

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._pid and number == signal.SIGTERM and self.agent is not None and _is_sent(self.agent):
            self.agent, self._is_asked = None, True
        elif self._pid:
            # not reaped yet, or gone: never another process
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)
        elif self._is_held:
            self._waiting.append(number)
        else:
            raise _SignalledError(number)

    def agent_is_gone(self) -> None:
        """Tell the program itself what an agent was asked for that may not have come to it."""
        self.agent = None
        if self._is_asked:
            self._is_asked = False
            self._take(signal.SIGTERM, None)

    def hold(self) -> None:
        """Keep signals until there is a program."""
        self._is_held = True

    def send_to(self, pid: int) -> None:
        """Hand on what came and what will come."""
        self._pid = pid
        for number in self._waiting:
            self._take(number, None)


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


def _listening(text: str) -> Row:
    """Read ``[ADDR:]PORT``: where a program that enforces by itself listens."""
    address, colon, port = text.rpartition(":")
    number = _port(port, text, "[ADDR:]PORT")
    return {"address": address.strip("[]") if colon else "127.0.0.1", "port": number, "app_port": number}


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
