"""Reads what somebody asked to be launched: open files, ports, and then the process that executes them."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping

from enforcer.control import Conversation
from enforcer.egress import MAX_EXEMPT, parse_exempt, write_exempt
from enforcer.health import MAX_CHECKS, parse_check, write_check
from enforcer.loading import loading
from enforcer.native.comeback import MAX_HANDLES
from enforcer.ports import MAX_WORKERS, Ports
from enforcer.process import read_environment, read_stat
from mesh.problems import Invalid, NotFound

MAX_NAME = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A launch that was asked for: descriptors of the executable and, for an interpreter, of its script.

    ``kept`` names the variables that load code and that the program is to have all the same.
    """

    name: str
    ports: Ports
    executable: int
    script: int | None
    is_direct: bool
    kept: frozenset[str]


def read_order(talk: Conversation, message: Mapping[str, object]) -> Asked:
    """Read a launch order.

    A program that enforces by itself has no sidecar that could redirect it or call for it.
    Raises Invalid LM3002 for an order that breaks the form of control.sock, LM3704 for an unreadable exemption, and
    LM3705 for an unreadable health check.
    """
    name = message.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise Invalid("LM3002", reason="a launch has a name")
    if len(talk.handles) not in {1, 2}:
        raise Invalid("LM3002", reason="a launch comes with its open executable, and its open script if it has one")
    inbound = tuple(
        (_text(row, "address"), _port(row, "port"), _port(row, "app_port")) for row in _rows(message, "inbound")
    )
    outbound = tuple(
        (_port(row, "local_port"), _text(row, "service"), None if row.get("port") is None else _port(row, "port"))
        for row in _rows(message, "outbound")
    )
    health = _health(message.get("health", []))
    is_sdk = message.get("sdk") is True
    if is_sdk and (outbound or health or message.get("intercept") is True):
        raise Invalid("LM3002", reason="a launch with `sdk` has no sidecar for outbound, health or redirected ports")
    workers = message.get("workers", 1)
    if type(workers) is not int or not 0 < workers <= MAX_WORKERS:
        raise Invalid("LM3002", reason=f"`workers` is a number from 1 to {MAX_WORKERS}")
    if len(inbound) + len(outbound) + len(health) + 2 > MAX_HANDLES:
        raise Invalid("LM3002", reason=f"a workload has fewer than {MAX_HANDLES - 2} ports")
    return Asked(
        name=name,
        ports=Ports(
            inbound=inbound,
            outbound=outbound,
            health=health,
            intercept=message.get("intercept") is True,
            egress=_egress(message.get("egress", [])),
            sdk=is_sdk,
            workers=workers,
        ),
        executable=talk.handles[0],
        script=talk.handles[1] if len(talk.handles) == 2 else None,
        is_direct=is_sdk or message.get("direct") is True,
        kept=_names(message.get("keep_env", [])),
    )


def read_begun(talk: Conversation, message: Mapping[str, object] | None, kind: str, before: int) -> tuple[int, int]:
    """The process that the asker began: its pidfd, which came with a message after ``before`` others, and its pid.

    It is a child of the asker's and leads a session of its own, since nothing else may be in that session.
    Raises Invalid LM3002 for anything else, NotFound LM3401 when it is gone already.
    """
    if message is None or message.get("type") != kind or len(talk.handles) != before + 1:
        raise Invalid("LM3002", reason="a launch that may begin is begun")
    handle = talk.handles[before]
    pid = _pid_of(handle)
    stat = read_stat(pid)
    if (stat.ppid, stat.session) != (talk.pid, pid):
        raise Invalid("LM3002", reason="what is launched is the asker's own child, in a session of its own")
    return handle, pid


def check_environment(pid: int, kept: frozenset[str]) -> None:
    """Refuse a program that is held where it begins and that has variables which load code.

    Raises Invalid LM3436, and LM3403 when its environment cannot be read; one that is gone already has none.
    """
    with contextlib.suppress(NotFound):
        found = loading(read_environment(pid), kept)
        if found:
            raise Invalid("LM3436", variables=", ".join(found))


def _pid_of(handle: int) -> int:
    """The pid that a pidfd stands for, as this process counts."""
    for line in pathlib.Path(f"/proc/self/fdinfo/{handle}").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            if int(value) <= 0:
                raise NotFound("LM3401", pid=value.strip())
            return int(value)
    raise Invalid("LM3002", reason="the process that was begun is named by its pidfd")


def _rows(message: Mapping[str, object], name: str) -> list[dict[str, object]]:
    rows = message.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Invalid("LM3002", reason=f"`{name}` is a list of objects")
    return rows


def _egress(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_EXEMPT:
        raise Invalid("LM3002", reason=f"`egress` is a list of at most {MAX_EXEMPT} texts")
    return tuple(write_exempt(parse_exempt(str(text))) for text in value)


def _health(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CHECKS:
        raise Invalid("LM3002", reason=f"`health` is a list of at most {MAX_CHECKS} texts")
    return tuple(write_check(parse_check(str(text))) for text in value)


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Invalid("LM3002", reason="`keep_env` is a list of names")
    return frozenset(value)


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise Invalid("LM3002", reason=f"`{name}` is text")
    return value


def _port(row: Mapping[str, object], name: str) -> int:
    value = row.get(name)
    if type(value) is not int or not 0 < value < 65536:
        raise Invalid("LM3002", reason=f"`{name}` is a port")
    return value
