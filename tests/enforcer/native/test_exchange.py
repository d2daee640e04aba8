"""Exchanges over streams that only remember: what moves when, and how everything ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

import pytest

from enforcer.native import serial
from enforcer.native.exchange import HttpConnection
from enforcer.native.http1 import RequestHead
from enforcer.native.judge import Judgement, denied
from enforcer.native.limits import Limits
from enforcer.native.records import KEPT_WITHIN_S
from enforcer.native.stream import LINGER_SECONDS, PlainStream, Sink
from mesh.problems import Invalid
from mesh.request import Decision, Effect, Mode

GET = b"GET /a HTTP/1.1\r\nHost: db\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: db\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASK = (
    b"GET /a HTTP/1.1\r\nHost: db\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
ALLOWED = Decision(
    effect=Effect.ALLOW, policy_effect=Effect.ALLOW, mode=Mode.ENFORCE, snapshot="h", tier="app", policy="p", rule="r",
    code="LM2300",
)  # fmt: skip


LIMITS = Limits()


class Recorded:
    """A stream that remembers what is done to it."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.sent = b""
        self.did: list[str] = []

    def write(self, data: bytes) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.did.append("eof")

    def pause(self) -> None:
        self.did.append("pause")

    def resume(self) -> None:
        self.did.append("resume")

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")

    @property
    def tell(self) -> Sink:
        assert self.sink is not None
        return self.sink


class World:
    """A connection with its caller's stream, the workload's streams, and the host's answers."""

    def __init__(self, *, dials: bool = True) -> None:
        self.caller, self.apps = Recorded(), list[Recorded]()
        self.waiting: list[Callable[[PlainStream | None], None]] = []
        self.dials, self.over = dials, 0
        self.websockets = self.still = True
        self.problem: Invalid | None = None
        self.turns: list[Callable[[], None]] = []
        self.again: list[str] = []
        self.refused: list[str] = []
        self.counted: list[tuple[str, int | None]] = []
        # answers that wait for their record, where they have to
        self.keeps = False
        self.kept: list[Callable[[], None]] = []
        self.connection = HttpConnection(self.caller, self, b"x-limen-source: web\r\n", LIMITS)

    @property
    def app(self) -> Recorded:
        return self.apps[-1]

    def refusal(self) -> Invalid | None:
        return self.problem

    def judge(self, head: RequestHead) -> tuple[Judgement, str]:
        decision = denied("LM2302") if head.target.startswith("/no") else ALLOWED
        return Judgement(decision, None, head.target, head.target), "01ABC"

    def reads_field(self, name: str) -> bool:
        return name == "x-role"

    def takes_websocket(self) -> bool:
        return self.websockets

    def judge_again(self, head: RequestHead) -> bool:
        self.again.append(head.target)
        return self.still

    def refuse(self, problem: Invalid) -> str:
        self.refused.append(problem.code)
        return "01ABC"

    def waits_for_disk(self, answer: Callable[[], None], code: str = "") -> bool:
        self.kept += [answer] if self.keeps else []
        return self.keeps

    def forwarded(self, head: RequestHead) -> RequestHead:
        return head

    def exchanged(self, head: RequestHead, judgement: Judgement, status: int | None, length: int | None = None) -> None:
        assert judgement.target == head.target
        self.counted.append((head.target, status))

    def later(self, work: Callable[[], None]) -> None:
        self.turns.append(work)

    def dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        if self.dials:
            self.apps.append(Recorded())
            connected(cast("PlainStream", self.app))  # it does what a stream does
        else:
            self.waiting.append(connected)

    def gone(self, connection: HttpConnection) -> None:
        assert connection is self.connection
        self.over += 1


def test_an_exchange_goes_through_and_the_connections_stay() -> None:
    world = World()
    for _ in range(2):
        world.caller.tell.received(GET)
        world.app.tell.received(OK)
    assert len(world.apps) == 1
    assert world.caller.sent == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * 2
    assert world.app.sent.count(b"x-limen-source: web\r\n\r\n") == 2
    assert world.counted == [("/a", 200)] * 2


def test_a_workload_that_spoke_or_left_before_it_was_asked_is_an_error_and_no_silence() -> None:
    for early in (b"220 hello\r\n", b""):
        world = World(dials=False)
        world.caller.tell.received(GET)
        app = Recorded()

        def resume(app: Recorded = app, early: bytes = early) -> None:
            if early:
                app.tell.received(early)
            else:
                app.tell.lost()

        app.resume = resume  # type: ignore[method-assign]  # what a stream kept back is told on resuming
        world.waiting[0](cast("PlainStream", app))
        assert world.caller.sent.startswith(b"HTTP/1.1 502 ")
        assert world.refused == ["LM3302"]
        assert app.sent == b""


def test_a_pipelined_request_waits_for_the_response_before_it() -> None:
    world = World()
    world.caller.tell.received(GET + GET)
    assert world.app.sent.count(b"GET") == 1
    world.app.tell.received(OK)
    assert world.app.sent.count(b"GET") == 2


def test_a_caller_that_pipelines_far_ahead_is_held() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.caller.tell.received(GET * 4000)
    assert world.caller.did[-1] == "pause"


def test_a_response_comes_through_piece_by_piece() -> None:
    world = World()
    world.caller.tell.received(GET)
    stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
    for at in range(len(stream)):
        world.app.tell.received(stream[at : at + 1])
    assert world.caller.sent.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\nx-sum: 1\r\n\r\n")
    assert world.counted == [("/a", 200)]


def test_interim_responses_pass_before_the_final_one() -> None:
    world = World()
    world.caller.tell.received(b"POST /a HTTP/1.1\r\nHost: db\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert b"expect: 100-continue" in world.app.sent
    world.app.tell.received(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert world.caller.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.caller.tell.received(b"hi")
    assert world.app.sent.endswith(b"hi")
    world.app.tell.received(OK)
    assert world.counted == [("/a", 200)]


def test_a_response_to_head_has_no_body_and_the_next_one_does() -> None:
    world = World()
    world.caller.tell.received(HEAD)
    world.app.tell.received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    world.caller.tell.received(GET)
    world.app.tell.received(OK)
    assert world.counted == [("/a", 200)] * 2


def test_a_response_that_ends_with_its_connection_ends_ours() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(b"HTTP/1.0 200 OK\r\n\r\nsome")
    world.app.tell.received(b"thing")
    world.app.tell.ended()
    assert world.caller.sent == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsomething"
    assert world.caller.did[-1] == "eof"


def test_a_workload_that_closes_after_each_response_is_called_again() -> None:
    world = World()
    for _ in range(2):
        world.caller.tell.received(GET)
        world.app.tell.received(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert len(world.apps) == 2
    assert world.apps[0].did[-1] == "close"
    assert world.counted == [("/a", 200)] * 2


def test_an_idle_connection_that_the_workload_closes_is_replaced() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(OK)
    world.app.tell.ended()
    world.caller.tell.received(GET)
    world.app.tell.received(OK)
    assert len(world.apps) == 2
    assert "eof" not in world.caller.did


@pytest.mark.parametrize("between", [b"", GET.replace(b"/a", b"/no")], ids=["at once", "after a denial"])
def test_another_programs_requests_get_a_connection_of_their_own_to_the_workload(between: bytes) -> None:
    world = World()
    begins = GET.replace(b"\r\n", b"\r\nx-limen-begins: 1\r\n", 1)
    for _ in range(2):
        for request in (begins, GET):
            world.caller.tell.received(request)
            world.app.tell.received(OK)
        if between:
            world.caller.tell.received(serial.marked(between))
    assert len(world.apps) == 2
    assert [app.did for app in world.apps] == [["resume", "close"], ["resume", "close"] if between else ["resume"]]
    assert all(app.sent.count(b"GET") == 2 and b"begins" not in app.sent for app in world.apps)


def test_a_workload_that_closes_without_an_answer_is_a_bad_gateway() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.ended()
    assert world.caller.sent.startswith(b"HTTP/1.1 502 ")
    assert world.counted == [("/a", 502)]


CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("chunk", [b"zz\r\nok\r\n0\r\n\r\n", b"2;a=b\r\nok\r\n", b"2\r\nok!"])
def test_a_response_whose_first_chunk_is_none_is_a_bad_gateway_and_none_of_it_is_sent(chunk: bytes) -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(CHUNKS + chunk)
    assert world.caller.sent.startswith(b"HTTP/1.1 502 ")
    assert b" 200 " not in world.caller.sent
    assert world.refused == ["LM3302"]
    assert world.counted == [("/a", 502)]
    assert "abort" in world.app.did


def test_a_response_that_has_begun_is_cut_at_a_later_chunk_that_is_none() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(CHUNKS + b"2\r\nok\r\n")
    world.app.tell.received(b"zz\r\n")
    assert b" 502 " not in world.caller.sent
    assert "abort" in world.caller.did
    assert world.refused == []


@pytest.mark.parametrize(
    "stream",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2"],
)
def test_a_response_that_is_cut_short_cuts_the_caller(stream: bytes) -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(stream)
    world.app.tell.ended()
    assert world.caller.did[-1] == "abort"


def test_a_response_with_something_behind_it_ends_that_connection() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(OK + b"HTTP/1.1 200 OK\r\n\r\nsplit")
    assert b"split" not in world.caller.sent
    assert world.app.did[-1] in {"close", "abort"}


def test_a_workload_that_speaks_unasked_is_dropped() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(OK)
    world.app.tell.received(OK)
    assert world.caller.sent.count(b"200 OK") == 1
    assert world.app.did[-1] == "abort"


def test_a_response_before_the_whole_request_ends_the_connection() -> None:
    world = World()
    world.caller.tell.received(b"POST /a HTTP/1.1\r\nHost: db\r\nContent-Length: 9\r\n\r\nab")
    world.app.tell.received(OK)
    assert world.caller.sent.endswith(b"ok")
    assert world.caller.did[-1] == "eof"


def test_a_denied_request_keeps_the_connection_when_nothing_follows_it() -> None:
    world = World()
    world.caller.tell.received(b"GET /no HTTP/1.1\r\nHost: db\r\n\r\n" + GET)
    assert world.caller.sent.startswith(b"HTTP/1.1 403 ")
    assert json.loads(world.caller.sent.partition(b"\r\n\r\n")[2])["code"] == "LM2302"
    assert b"GET /a" in world.app.sent
    assert b"/no" not in world.app.sent


def test_a_workload_that_cannot_be_reached_is_said_so() -> None:
    world = World(dials=False)
    world.caller.tell.received(GET)
    assert world.caller.did[-1] == "pause"
    world.waiting[0](None)
    assert world.caller.sent.startswith(b"HTTP/1.1 503 ")
    assert world.refused == ["LM3300"]


def test_a_caller_that_leaves_while_the_workload_is_called_leaves_nothing_behind() -> None:
    world = World(dials=False)
    world.caller.tell.received(GET)
    world.caller.tell.lost()
    late = Recorded()
    world.waiting[0](cast("PlainStream", late))  # it does what a stream does
    assert late.did == ["abort"]
    assert world.over == 1


def test_a_caller_that_ends_gets_its_answer_first() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.caller.tell.ended()
    world.app.tell.received(OK)
    assert world.caller.sent.endswith(b"ok")
    assert world.caller.did[-1] == "close"
    assert world.over == 1


def test_a_caller_that_ends_inside_a_body_takes_the_request_back() -> None:
    world = World()
    world.caller.tell.received(b"POST /a HTTP/1.1\r\nHost: db\r\nContent-Length: 9\r\n\r\nab")
    world.caller.tell.ended()
    assert world.app.did[-1] == "abort"
    assert world.over == 1


def test_each_side_is_held_while_the_other_is_full() -> None:
    world = World()
    world.caller.tell.received(b"POST /a HTTP/1.1\r\nHost: db\r\nContent-Length: 9\r\n\r\nab")
    world.app.tell.writable(ready=False)
    assert world.caller.did[-1] == "pause"
    world.app.tell.writable(ready=True)
    assert world.caller.did[-1] == "resume"
    world.caller.tell.writable(ready=False)
    world.caller.tell.writable(ready=True)
    assert world.app.did == ["resume", "pause", "resume"]


def test_a_head_that_trickles_in_is_refused_in_time() -> None:
    world = World()
    for _ in range(LIMITS.head_s + 1):
        world.caller.tell.received(b"G" if not world.refused else b"")
        world.connection.tick()
    assert world.refused == ["LM3112"]
    assert world.caller.sent.startswith(b"HTTP/1.1 408 ")
    for _ in range(LINGER_SECONDS + 1):
        world.connection.tick()
    assert world.caller.did[-1] == "close"


def test_silent_connections_end() -> None:
    idle, stuck = World(), World()
    stuck.caller.tell.received(GET)
    for _ in range(LIMITS.idle_s + 2):
        idle.connection.tick()
    for _ in range(LIMITS.exchange_s + 2):
        stuck.connection.tick()
    assert idle.over == 1
    assert (stuck.over, stuck.caller.did[-1], stuck.app.did[-1]) == (1, "abort", "abort")


def test_a_websocket_joins_the_streams_once_the_workload_proves_it() -> None:
    world = World()
    world.caller.tell.received(ASK)
    assert b"connection: upgrade\r\nupgrade: websocket\r\n" in world.app.sent
    assert b"Sec-WebSocket-Key: " in world.app.sent
    world.app.tell.received(SWITCH + b"\x81\x02hi")
    assert world.caller.sent.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert world.caller.sent.endswith(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x02hi")
    before = world.app.sent
    world.caller.tell.received(b"\x81\x80mask")
    assert world.app.sent == before + b"\x81\x80mask"
    assert world.counted == [("/a", 101)]
    for _ in range(LIMITS.exchange_s + 2):
        world.connection.tick()
    assert "abort" not in world.caller.did
    world.app.tell.lost()
    assert world.over == 1
    assert "abort" in world.caller.did


def test_a_websocket_ends_when_its_request_would_be_denied() -> None:
    world = World()
    world.caller.tell.received(ASK)
    world.app.tell.received(SWITCH)
    world.connection.recheck()
    assert world.again == ["/a"]
    assert "abort" not in world.caller.did
    world.still = False
    world.connection.recheck()
    assert "abort" in world.caller.did
    assert "abort" in world.app.did


def test_a_websocket_ends_when_its_port_no_longer_declares_it() -> None:
    world = World()
    world.caller.tell.received(ASK)
    world.app.tell.received(SWITCH)
    world.websockets = False
    world.connection.recheck()
    assert "abort" in world.caller.did


def test_an_upgrade_that_the_port_does_not_declare_is_refused() -> None:
    world = World()
    world.websockets = False
    world.caller.tell.received(ASK)
    assert world.refused == ["LM3108"]
    assert world.apps == []


def test_bytes_behind_the_request_for_a_websocket_are_refused() -> None:
    world = World()
    world.caller.tell.received(ASK + b"GET /no HTTP/1.1\r\n")
    assert world.refused == ["LM3108"]
    assert world.apps == []


def test_bytes_before_the_answer_never_become_a_websockets() -> None:
    world = World()
    world.caller.tell.received(ASK)
    world.caller.tell.received(b"\x81\x80mask")
    world.app.tell.received(SWITCH)
    assert world.refused == ["LM3108"]
    assert b" 101 " not in world.caller.sent
    assert b"mask" not in world.app.sent
    assert "abort" in world.app.did


def test_a_workload_that_grants_no_websocket_answers_as_always() -> None:
    world = World()
    world.caller.tell.received(ASK)
    world.app.tell.received(OK)
    world.caller.tell.received(GET)
    assert world.app.sent.endswith(b"x-limen-source: web\r\n\r\n")
    assert world.counted == [("/a", 200)]


def test_a_switch_that_nobody_asked_for_is_no_answer() -> None:
    world = World()
    world.caller.tell.received(GET)
    world.app.tell.received(SWITCH)
    assert world.refused == ["LM3302"]


def test_a_caller_that_reads_no_answers_is_given_no_more() -> None:
    world = World()
    no = b"GET /no HTTP/1.1\r\nHost: db\r\n\r\n"
    world.caller.tell.writable(ready=False)
    world.caller.tell.received(no * 100)
    assert world.caller.sent == b""
    assert world.caller.did == ["pause"]
    world.caller.tell.writable(ready=True)
    while world.turns:
        world.turns.pop(0)()
    assert world.caller.sent.count(b"HTTP/1.1 403") == 100
    assert world.caller.did == ["pause", "resume"]


def test_a_caller_with_many_denials_lets_others_have_their_turn() -> None:
    world = World()
    no = b"GET /no HTTP/1.1\r\nHost: db\r\n\r\n"
    world.caller.tell.received(no * 40)
    answered = [world.caller.sent.count(b"HTTP/1.1 403")]
    world.caller.tell.received(no)
    while world.turns:
        assert len(world.turns) == 1
        world.turns.pop(0)()
        answered.append(world.caller.sent.count(b"HTTP/1.1 403"))
    assert answered == [16, 32, 41]


def test_a_workload_that_is_called_for_a_caller_that_does_not_read_waits_too() -> None:
    world = World(dials=False)
    world.caller.tell.received(GET)
    world.caller.tell.writable(ready=False)
    app = Recorded()
    app.sink = None
    world.waiting[0](cast("PlainStream", app))
    assert "resume" not in app.did
    world.caller.tell.writable(ready=True)
    assert app.did == ["resume"]


def test_what_cannot_be_taken_on_is_said_so() -> None:
    world = World()
    world.problem = Invalid("LM3303", limit=1)
    world.caller.tell.received(GET)
    assert world.caller.sent.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in world.caller.sent
    assert (world.refused, world.apps) == (["LM3303"], [])


def test_trailers_pass_in_both_directions_but_for_those_that_mean_something_before_a_body() -> None:
    world = World()
    trailers = (
        b"X-Unannounced: 1\r\nX-Digest:  abc \r\nX-Role: admin\r\nX-Limen-Source: me\r\nX_Role: admin\r\n"
        b"Authorization: Bearer x\r\nX-Forwarded-For: 10.0.0.1\r\n"
    )
    world.caller.tell.received(
        b"POST /a HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: X-Digest, x-role, content-length, two words\r\nTrailer: x-limen-source,x-absent\r\n\r\n"
    )
    assert b"transfer-encoding: chunked\r\ntrailer: x-absent, x-digest\r\n" in world.app.sent
    world.caller.tell.received(b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
    assert world.app.sent.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Digest: abc\r\n\r\n")
    world.app.tell.received(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + trailers + b"Age: 1\r\n\r\n"
    )
    assert world.caller.sent.endswith(b"\r\n\r\n0\r\nX-Unannounced: 1\r\nX-Digest: abc\r\nX-Role: admin\r\n\r\n")


NO = b"GET /no HTTP/1.1\r\nHost: db\r\n\r\n"


def keeping() -> World:
    world = World()
    world.keeps = True
    return world


def test_a_denial_that_is_kept_first_is_answered_then_and_the_connection_goes_on() -> None:
    world = keeping()
    world.caller.tell.received(NO + NO + GET)
    assert (world.caller.sent, len(world.kept), world.apps) == (b"", 1, [])
    assert world.connection.is_busy
    world.kept.pop()()
    assert world.caller.sent.count(b"HTTP/1.1 403 ") == 1
    # the next one waits for its own
    world.kept.pop()()
    world.app.tell.received(OK)
    assert (world.caller.sent.count(b"HTTP/1.1 403 "), world.caller.sent.endswith(OK[-4:])) == (2, True)
    assert (world.over, {"eof", "close", "abort"} & {*world.caller.did}) == (0, set())


@pytest.mark.parametrize("raw", [NO.replace(b"/no", b"/no/#"), b"POST" + NO[3:-2] + b"Content-Length: 2\r\n\r\nok"])
def test_the_last_answer_of_a_connection_is_kept_first_too(raw: bytes) -> None:
    world = keeping()
    world.caller.tell.received(raw)
    # the caller is done, and still gets its answer
    world.caller.tell.ended()
    assert (world.caller.sent, world.over) == (b"", 0)
    world.kept.pop()()
    assert world.caller.sent.startswith(b"HTTP/1.1 4")
    assert (world.caller.did[-2:], world.over) == (["eof", "close"], 1)


def test_an_answer_whose_record_is_kept_too_late_is_none() -> None:
    world = keeping()
    world.caller.tell.received(NO)
    for _ in range(KEPT_WITHIN_S):
        world.connection.tick()
    assert world.over == 0
    world.connection.tick()
    assert (world.caller.sent, world.caller.did[-1], world.over) == (b"", "abort", 1)
    world.kept.pop()()
    assert world.caller.sent == b""


def test_a_caller_that_went_before_its_answer_was_kept_is_forgotten() -> None:
    world = keeping()
    world.caller.tell.received(NO)
    world.caller.tell.lost()
    world.kept.pop()()
    assert (world.caller.sent, world.over) == (b"", 1)
