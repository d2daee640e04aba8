import asyncio
import ctypes
import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.masking import Masking
from audit.record import read_record
from audit.spool import Spool
from enforcer.callers import Callers
from enforcer.delivery import Delivery
from enforcer.identity import Identity
from enforcer.order import Order
from enforcer.ports import Ports
from enforcer.process import Process, read_stat
from enforcer.runtime.containers import Containers, Found
from enforcer.workload import Feed, Workload
from enforcer.workloadfront import Caller
from mesh.clock import ManualClock
from mesh.problems import NotFound, Problem, Unavailable
from mesh.proto import node_pb2 as pb
from mesh.spiffe import SpiffeId
from mesh.x509svid import X509Svid
from tests.pki import NOW, Pki

PTRACE_SEIZE = 0x4206
PKI = Pki()
NAME = "spiffe://corp.test/ns/web/sa/front"


def settled(pid: int, command: bytes) -> None:
    """Wait until a program itself sleeps: until then its exec is not over, and its image is still being built."""
    path = pathlib.Path(f"/proc/{pid}/cmdline")
    while path.read_bytes() != command or read_stat(pid).state != "S":
        os.sched_yield()


def caller(pid: int) -> Caller:
    stat = read_stat(pid)
    return Caller(
        pid=pid,
        uid=os.getuid(),
        gid=os.getgid(),
        start=stat.start,
        layout=stat.layout,
        pidfd=os.pidfd_open(pid),
        inode=None,
    )


class Told(Containers):
    """Containers of which the test says what is found."""

    def __init__(self) -> None:
        super().__init__([])
        self.found = Found()

    async def facts_of(self, process: Process) -> Found:
        del process
        return self.found


class Setting:
    """Callers with an issuer that the test decides on, and a spool to look into."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.clock = ManualClock(NOW)
        self.spool = Spool(folder)
        self.code = ""
        self.direct = self.is_silent = False
        self.asked: list[pb.Ask] = []
        self.workloads: list[Workload] = []
        self.jwts_asked: list[pb.JwtAsk] = []
        self.containers = Told()
        self.callers = Callers(
            workloads=lambda: self.workloads,
            issue=self.issue,
            issue_jwts=self.issue_jwts,
            containers=self.containers,
            node_facts=lambda: (("node:id", "n"),),
            own_bundles=lambda: {"corp.test": PKI.bundle()},
            delivery=Delivery(self.spool, Ed25519PrivateKey.generate(), "a", Masking(b"m")),
            clock=self.clock,
            source="agent:n",
            trust_domain="corp.test",
            order=Order(None),
        )

    async def issue_jwts(self, asks: list[pb.JwtAsk]) -> list[pb.IssuedJwt]:
        self.jwts_asked += asks
        return [pb.IssuedJwt(ref=asks[0].ref, code="LM1210", facts={"count": "0"})]

    async def issue(self, asks: list[pb.Ask]) -> list[pb.IssuedSvid]:
        self.asked += asks
        if self.is_silent:
            return []
        if self.code:
            return [pb.IssuedSvid(ref="caller", code=self.code, facts={"count": "0"})]
        return [pb.IssuedSvid(ref="caller", spiffe_id=NAME, chain=[PKI.leaf_for(asks[0].spki)], direct=self.direct)]

    def identities(self, found: Caller) -> Any:
        return asyncio.run(self.callers.identities_of(found))

    def refused(self, found: Caller) -> str:
        with pytest.raises(Problem) as caught:
            self.identities(found)
        return caught.value.code

    def recorded(self) -> list[dict[str, object]]:
        return [read_record(data) for data in self.spool.read()[1]]

    def serve(self, launched: Any, *, direct: bool) -> None:
        """A launched workload with a sidecar that has an identity."""
        feed: Any = None
        workload = Workload("w", Ports(), feed, launched.sight, None)
        workload.launch = launched.launch
        svid = X509Svid(spiffe_id=SpiffeId.parse(NAME), chain_der=(), key_pkcs8_der=b"", not_after=NOW)
        workload.identity = Identity(svid=svid, rule="r", hint="", direct=direct, renew_at=NOW)
        self.workloads.append(workload)
        assert Feed is not None


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> Setting:
    return Setting(tmp_path / "spool")


def test_a_process_is_attested_once_while_it_stays_what_it_is(setting: Setting) -> None:
    me = caller(os.getpid())
    assert [str(item.svid.spiffe_id) for item in setting.identities(me)] == [NAME]
    setting.identities(me)
    assert len(setting.asked) == 1
    assert ("node:id", "n") in [(fact.key, fact.value) for fact in setting.asked[0].facts]
    setting.callers.forget()
    setting.identities(me)
    assert len(setting.asked) == 2


def test_connections_that_ask_at_once_are_one_question(setting: Setting) -> None:
    async def ask() -> int:
        found = await asyncio.gather(*(setting.callers.identities_of(caller(os.getpid())) for _ in range(5)))
        return len({item.svid.chain_der for [item] in found})

    assert asyncio.run(ask()) == 1
    assert len(setting.asked) == 1


def test_what_the_container_of_a_caller_gives_is_asked_with(setting: Setting) -> None:
    setting.containers.found = Found(facts=(("docker:image", "shop:1"),))
    setting.identities(caller(os.getpid()))
    assert ("docker:image", "shop:1") in [(fact.key, fact.value) for fact in setting.asked[0].facts]


@pytest.mark.parametrize(
    "problem",
    [Unavailable("LM3472", runtime="r", reason="x"), NotFound("LM3401", pid=1)],
    ids=["a-silent-runtime", "gone-meanwhile"],
)
def test_a_caller_whose_container_may_answer_later_gets_nothing_now(setting: Setting, problem: Problem) -> None:
    setting.containers.found = Found(problem=problem)
    assert setting.refused(caller(os.getpid())) == problem.code
    assert setting.asked == []


def test_a_container_that_was_not_confirmed_is_named_where_no_rule_fits(setting: Setting) -> None:
    reason = "it is in another pid namespace"
    problem = NotFound("LM3471", runtime="r", pid=7, container="c", reason=reason)
    setting.containers.found = Found(problem=problem)
    setting.code = "LM1210"
    assert setting.refused(caller(os.getpid())) == "LM1210"
    (row,) = setting.recorded()
    assert reason in row["facts"]["container"]  # type: ignore[index]


def test_what_is_due_is_asked_for_again(setting: Setting) -> None:
    me = caller(os.getpid())
    setting.identities(me)
    assert not setting.callers.forget_due()
    setting.clock.advance(PKI.leaf().certificate.not_valid_after_utc - NOW)
    assert setting.callers.forget_due()


def test_a_refusal_is_a_recorded_denial(setting: Setting) -> None:
    setting.code = "LM1210"
    assert setting.refused(caller(os.getpid())) == "LM1210"
    found = setting.recorded()
    assert [(row["kind"], row["code"], row["decision"]) for row in found] == [("decision", "LM1210", "deny")]


@pytest.mark.parametrize(("direct", "code"), [(False, "LM3503"), (True, "")], ids=["sidecar-only", "direct"])
def test_a_launched_workload_needs_a_direct_rule(setting: Setting, launched: Any, *, direct: bool, code: str) -> None:
    setting.serve(launched, direct=direct)
    found = caller(launched.launch.pid)
    if code:
        assert setting.refused(found) == code
    else:
        assert len(setting.identities(found)) == 1
    assert setting.asked == []


def test_nobody_else_gets_what_a_sidecar_serves(setting: Setting, launched: Any) -> None:
    setting.serve(launched, direct=False)
    assert setting.refused(caller(os.getpid())) == "LM3503"


def test_another_program_in_the_workloads_session_is_not_the_workload(setting: Setting, launched: Any) -> None:
    setting.serve(launched, direct=True)
    setting.code = "LM1210"
    launched.do(f"child {launched.port}")
    from enforcer.holders import holders

    accepted, peer = launched.server.accept()
    inode = launched.sight.diag.find(peer, launched.server.getsockname()).inode
    other = next(pid for pid in holders(inode) if pid != launched.launch.pid)
    settled(other, b"/bin/sleep\x00600\x00")
    assert setting.refused(caller(other)) == "LM1210"
    accepted.close()


def test_a_process_that_is_gone_is_refused(setting: Setting) -> None:
    pid = os.fork()
    if pid == 0:
        __import__("signal").pause()
    found = caller(pid)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert setting.refused(found) == "LM3401"


def test_a_change_wakes_whoever_saw_the_version_before(setting: Setting) -> None:
    async def run() -> None:
        seen = setting.callers.version
        waiting = asyncio.ensure_future(setting.callers.changed(seen))
        await asyncio.sleep(0)
        assert not waiting.done()
        await setting.callers.announce()
        async with asyncio.timeout(60):
            await waiting
            await setting.callers.changed(seen)

    asyncio.run(run())


def test_an_answer_without_an_identity_in_it_is_a_problem_and_another_one_is_asked_for(setting: Setting) -> None:
    setting.is_silent = True
    found = caller(os.getpid())
    with pytest.raises(Unavailable, match="LM3453"):
        setting.identities(found)
    setting.is_silent = False
    assert setting.identities(found)


def test_a_process_that_executed_something_since_it_connected_is_refused(setting: Setting) -> None:
    process = subprocess.Popen(
        ["sh", "-c", "echo; read x; exec sleep 600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        connected = caller(process.pid)
        setting.identities(connected)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        settled(process.pid, b"sleep\x00600\x00")
        assert setting.refused(connected) == "LM3404"
        # one that connects as what it is now is attested
        assert setting.identities(caller(process.pid))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def traced() -> Iterator[int]:
    """A program that this process traces, as a debugger does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        settled(process.pid, b"/bin/sleep\x00600\x00")
        assert libc.ptrace(PTRACE_SEIZE, process.pid, None, None) == 0
        yield process.pid
        process.kill()


def test_a_traced_process_gets_nothing_whether_it_is_known_or_not(setting: Setting, traced: int) -> None:
    assert setting.refused(caller(traced)) == "LM3427"
    (row,) = setting.recorded()
    assert row["facts"]["tracer"] == str(threading.get_native_id())  # type: ignore[index]
    assert setting.asked == []


def test_a_process_that_is_known_gets_nothing_while_it_is_traced(setting: Setting) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # what answers runs, and its layout is the finished one
        os.write(process.stdin.fileno(), b"x")
        assert os.read(process.stdout.fileno(), 1) == b"x"
        found = caller(process.pid)
        assert len(setting.identities(found)) == 1
        assert libc.ptrace(PTRACE_SEIZE, process.pid, None, None) == 0
        assert setting.refused(found) == "LM3427"
        process.kill()


def test_code_that_was_slipped_under_a_program_takes_its_digest_away_and_the_record_says_so(
    setting: Setting, tmp_path: pathlib.Path
) -> None:
    library = tmp_path / "libother.so"
    libm = next(pathlib.Path("/lib").glob("*-linux-gnu/libm.so.6"))
    library.write_bytes(libm.read_bytes())
    if os.geteuid() == 0:
        os.chown(library, 61000, 61000)
    setting.code = "LM1210"
    with subprocess.Popen(["/bin/sleep", "600"], env={"LD_PRELOAD": str(library)}) as process:
        settled(process.pid, b"/bin/sleep\x00600\x00")
        assert setting.refused(caller(process.pid)) == "LM1210"
        process.kill()
    assert "unix:sha256" not in [fact.key for fact in setting.asked[0].facts]
    (row,) = setting.recorded()
    assert str(library) in row["facts"]["no_digest"]  # type: ignore[index]
