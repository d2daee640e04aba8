"""Reads what somebody asked to be launched: command, directory, environment, ports, streams. Carries nothing out."""

from __future__ import annotations

from collections.abc import Mapping

from enforcer.control import Conversation
from enforcer.launch import Order
from enforcer.workload import Ports
from mesh.problems import Invalid


def read_order(talk: Conversation, message: Mapping[str, object]) -> tuple[Order, Ports, str]:
    """Read a launch order; the user is whom the kernel named.

    Raises Invalid LM3002 for an order that breaks the form of control.sock.
    """
    argv, env, cwd = message.get("argv"), message.get("env"), message.get("cwd")
    if (
        not isinstance(argv, list)
        or not argv
        or not all(isinstance(word, str) and "\0" not in word for word in argv)
        or not isinstance(env, dict)
        or not isinstance(cwd, str)
        or len(talk.streams) != 3
    ):
        raise Invalid("LM3002", reason="a launch has a command, a directory, an environment and three streams")
    order = Order(
        argv=tuple(argv),
        cwd=cwd,
        env={str(name): str(value) for name, value in env.items()},
        uid=talk.uid,
        gid=talk.gid,
        streams=(talk.streams[0], talk.streams[1], talk.streams[2]),
    )
    inbound = tuple(
        (_text(row, "address"), _port(row, "port"), _port(row, "app_port")) for row in _rows(message, "inbound")
    )
    outbound = tuple(
        (_port(row, "local_port"), _text(row, "service"), None if row.get("port") is None else _port(row, "port"))
        for row in _rows(message, "outbound")
    )
    name = message.get("name")
    return order, Ports(inbound=inbound, outbound=outbound), name if isinstance(name, str) else argv[0]


def _rows(message: Mapping[str, object], name: str) -> list[dict[str, object]]:
    rows = message.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Invalid("LM3002", reason=f"`{name}` is a list of objects")
    return rows


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
