import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from enforcer.listening import Doors, adopt_doors, open_doors, receive_doors
from enforcer.native import wire
from enforcer.ports import Ports
from mesh.problems import Invalid, Unavailable
from tests.enforcer.test_agent import free_port
from tests.handles import handles, nothing_stays_open


@pytest.fixture
def ports() -> Ports:
    inbound, outbound, health = free_port(), free_port(), free_port()
    return Ports(
        inbound=(("127.0.0.1", inbound, 1),),
        outbound=((outbound, "db", None),),
        health=(f"127.0.0.1:{health}=1/healthz@10.0.0.0/8",),
        intercept=True,
    )


@pytest.fixture
def doors(ports: Ports) -> Iterator[Doors]:
    found = open_doors(ports)
    yield found
    found.close()


def test_a_sidecar_is_told_which_socket_is_for_which_port(ports: Ports, doors: Doors) -> None:
    told = doors.message(ports)
    assert told["inbound"] == [
        {"address": "127.0.0.1", "port": ports.inbound[0][1], "app_port": 1, "handle": doors.inbound[0].fileno()}
    ]
    (row,) = told["outbound"]  # type: ignore[misc]  # a list
    assert row["handle"] == doors.outbound[0].fileno()
    assert told["health_handles"] == [sock.fileno() for sock in doors.health]
    assert told["intercept"] == doors.redirect_port != 0
    assert told["intercept_handles"] == [sock.fileno() for sock in doors.redirected]
    assert json.dumps(told)


def test_who_connects_before_a_sidecar_is_there_waits(ports: Ports, doors: Doors) -> None:
    with socket.create_connection(("127.0.0.1", ports.inbound[0][1]), 30) as caller:
        taken, _ = doors.inbound[0].accept()
        with taken:
            taken.sendall(b"x")
        assert caller.recv(2) == b"x"


def test_a_port_that_another_has_is_refused_with_its_address_and_nothing_stays_open(ports: Ports, doors: Doors) -> None:
    free = free_port()
    before = handles()
    with pytest.raises(Unavailable) as caught:
        open_doors(Ports(inbound=(("127.0.0.1", free, 1), ports.inbound[0])))
    assert caught.value.code == "LM3014"
    assert str(ports.inbound[0][1]) in str(caught.value)
    assert nothing_stays_open(before)


def test_sidecars_of_one_workload_share_its_ports_and_nobody_else_gets_in() -> None:
    shared = Ports(inbound=(("127.0.0.1", free_port(), 1),), workers=2)
    first, second = open_doors(shared), open_doors(shared)
    assert first.inbound[0].getsockname() == second.inbound[0].getsockname()
    with pytest.raises(Unavailable, match="LM3014"):
        open_doors(Ports(inbound=shared.inbound))
    first.close()
    second.close()


def without(change: Callable[[list[socket.socket]], list[socket.socket]], ports: Ports, doors: Doors) -> Doors | None:
    return adopt_doors(ports, doors.redirect_port, change(list(doors.all)))


def test_sockets_that_come_back_are_taken_for_what_they_are_alone(ports: Ports, doors: Doors) -> None:
    taken = without(lambda all_of_them: all_of_them, ports, doors)
    assert taken is not None
    assert taken.all == doors.all
    with socket.socket() as deaf, socket.create_server(("127.0.0.1", 0)) as other:
        changes: dict[str, Callable[[list[socket.socket]], list[socket.socket]]] = {
            "none": lambda _: [],
            "too few": lambda found: found[:2],
            "in another order": lambda found: [found[1], found[0], *found[2:]],
            "too many": lambda found: [*found, found[0], found[0]],
            "another port": lambda found: [other, *found[1:]],
            "it does not listen": lambda found: [deaf, *found[1:]],
        }
        assert [name for name, change in changes.items() if without(change, ports, doors) is not None] == []


def received(send: Callable[[socket.socket], object]) -> list[socket.socket]:
    async def main() -> list[socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            send(theirs)
            theirs.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(30):
                return await receive_doors(ours)

    return asyncio.run(main())


def test_the_first_message_brings_the_sockets_and_leaves_the_second_one_where_it_is(doors: Doors) -> None:
    handles = [sock.fileno() for sock in doors.all]
    first = wire.encode({"type": "handles", "count": len(handles)})
    found = received(lambda sock: socket.send_fds(sock, [first + wire.encode({"type": "ready"})], handles))
    assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in doors.all]
    for sock in found:
        assert not os.get_inheritable(sock.fileno())
        sock.close()


@pytest.mark.parametrize(
    "message",
    [
        wire.encode({"type": "handles", "count": 2}),
        wire.encode({"type": "handles"}),
        wire.encode({"type": "ready", "count": 1}),
        wire.encode({"type": "handles", "count": 1})[:9],
        b"\0\0",
        b"\xff\xff\xff\xff",
        b"",
    ],
    ids=["another count", "no count", "another word", "cut short", "no length", "too long", "nothing"],
)
def test_any_other_beginning_is_refused_and_closes_what_came(doors: Doors, message: bytes) -> None:
    before = handles()

    def send(sock: socket.socket) -> None:
        if message:
            socket.send_fds(sock, [message], [doors.inbound[0].fileno()])

    with pytest.raises(Invalid):
        received(send)
    assert nothing_stays_open(before)


def test_what_is_no_socket_is_refused(doors: Doors) -> None:
    before = handles()
    with open("/dev/null", "rb") as file:
        sent = [doors.inbound[0].fileno(), file.fileno()]
        message = wire.encode({"type": "handles", "count": 2})
        with pytest.raises(Invalid, match="LM3002"):
            received(lambda sock: socket.send_fds(sock, [message], sent))
    assert nothing_stays_open(before)
