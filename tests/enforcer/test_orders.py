import os
import socket

import pytest

from enforcer.control import Conversation
from enforcer.orders import read_order
from mesh.problems import Invalid

GOOD: dict[str, object] = {
    "type": "launch",
    "argv": ["true"],
    "cwd": "/",
    "env": {"A": "1"},
    "inbound": [{"address": "127.0.0.1", "port": 1, "app_port": 2}],
    "outbound": [{"local_port": 3, "service": "db", "port": None}, {"local_port": 4, "service": "db", "port": 5}],
}


@pytest.fixture
def talk() -> object:
    ours, theirs = socket.socketpair()
    found = Conversation(theirs)
    found.streams = [os.dup(0), os.dup(1), os.dup(2)]
    yield found
    found.close()
    ours.close()


def test_an_order_is_carried_out_as_whom_the_kernel_named(talk: Conversation) -> None:
    order, ports, name = read_order(talk, GOOD)
    assert (order.uid, order.gid, order.argv, name) == (os.getuid(), os.getgid(), ("true",), "true")
    assert ports.inbound == (("127.0.0.1", 1, 2),)
    assert ports.outbound == ((3, "db", None), (4, "db", 5))
    assert ports.message()["type"] == "listeners"


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []},
        {"argv": ["a\0b"]},
        {"argv": "true"},
        {"cwd": None},
        {"env": []},
        {"inbound": [{}]},
        {"inbound": "x"},
        {"inbound": [{"address": "a", "port": 0, "app_port": 1}]},
        {"inbound": [{"address": "a", "port": True, "app_port": 1}]},
        {"outbound": [{"local_port": 70000, "service": "x", "port": None}]},
        {"outbound": [{"local_port": 1, "service": 5, "port": None}]},
    ],
    ids=str,
)
def test_an_order_that_breaks_the_form_is_refused(talk: Conversation, change: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="LM3002"):
        read_order(talk, GOOD | change)


def test_an_order_without_streams_is_refused(talk: Conversation) -> None:
    os.close(talk.streams.pop())
    with pytest.raises(Invalid, match="LM3002"):
        read_order(talk, GOOD)
