import concurrent.futures
import contextlib
import datetime as dt
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.keys import KeyAlgorithm, generate, private_to_der
from ca.upstream.chain import accept, build_csr
from ca.upstream.spire import SpireUpstream
from mesh.clock import ManualClock, SystemClock
from mesh.problems import Forbidden, Invalid, Problem, Unavailable
from mesh.proto import spire_pb2, spire_pb2_grpc, workload_pb2, workload_pb2_grpc
from tests.ca.upstream.chains import DAY, DOMAIN, Made, Signs, make, root
from tests.ca.upstream.spireserver import running_spire
from tests.ca.upstream.stepca import private_pem
from tests.examples import examples
from tests.ports import free_port

NOW = SystemClock().now().replace(microsecond=0)
KEY = generate(KeyAlgorithm.P256)
CSR = build_csr(KEY, DOMAIN)
ROOT = root(begin=NOW - DAY, end=NOW + 30 * DAY, uri="spiffe://corp.test")


def leaf(path: str, issuer: Made = ROOT) -> Made:
    key = generate(KeyAlgorithm.P256)
    facts = {"begin": NOW - DAY, "end": NOW + DAY, "ca": False, "signs": False}
    return Made(make("leaf", key.public_key, issuer, uri=path, **facts), key)  # type: ignore[arg-type]


class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """A Workload API that says what a test wants."""

    def __init__(self, peers: "Peers") -> None:
        self.peers = peers

    def FetchX509SVID(
        self, request: workload_pb2.X509SVIDRequest, context: grpc.ServicerContext
    ) -> Iterator[workload_pb2.X509SVIDResponse]:
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        if self.peers.is_silent:
            return
        yield self.peers.give()


class Server(spire_pb2_grpc.SVIDServicer):
    """A SPIRE server that says what a test wants."""

    def __init__(self, peers: "Peers") -> None:
        self.peers = peers

    def NewDownstreamX509CA(
        self, request: spire_pb2.NewDownstreamX509CARequest, context: grpc.ServicerContext
    ) -> spire_pb2.NewDownstreamX509CAResponse:
        try:
            return self.peers.say(request.csr)
        except PermissionError as err:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(err))
            raise
        except OSError as err:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(err))
            raise


def good(csr: bytes) -> spire_pb2.NewDownstreamX509CAResponse:
    made = Signs(ROOT, begin=NOW - DAY, end=NOW + DAY).mint(csr, NOW)
    return spire_pb2.NewDownstreamX509CAResponse(ca_cert_chain=made.chain, x509_authorities=made.roots)


def svids(*made: Made, bundle: bytes = ROOT.der) -> workload_pb2.X509SVIDResponse:
    found = []
    for item in made:
        (name,) = names(item)
        found.append(
            workload_pb2.X509SVID(
                spiffe_id=name, x509_svid=item.der, x509_svid_key=private_to_der(item.key.key), bundle=bundle
            )
        )
    return workload_pb2.X509SVIDResponse(svids=found)


def names(made: Made) -> list[str]:
    from tests.ca.upstream.stepca import names as read

    return read(made.der)


T = TypeVar("T")
OURS = leaf("spiffe://corp.test/limen")


class Peers:
    """Both fakes, running; what they say may change from call to call."""

    def __init__(self, folder: pathlib.Path, server_svid: Made) -> None:
        self.is_silent = False
        self.say: Callable[[bytes], spire_pb2.NewDownstreamX509CAResponse] = good
        self.give: Callable[[], workload_pb2.X509SVIDResponse] = lambda: svids(OURS)
        self.workload_api = f"unix://{folder}/w"
        self.agent = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(Agent(self), self.agent)
        self.agent.add_insecure_port(f"unix:{folder}/w")
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
        spire_pb2_grpc.add_SVIDServicer_to_server(Server(self), self.server)
        pair = (private_pem(server_svid.key), server_svid.pem)
        credentials = grpc.ssl_server_credentials([pair], ROOT.pem, require_client_auth=True)
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.agent.start()
        self.server.start()

    def upstream(self, **more: str) -> SpireUpstream:
        facts = {"address": f"127.0.0.1:{self.port}", "workload_api": self.workload_api, **more}
        return SpireUpstream(DOMAIN, clock=ManualClock(NOW), **facts)  # type: ignore[arg-type]


@contextlib.contextmanager
def running(folder: pathlib.Path, server_svid: Made) -> Iterator[Peers]:
    found = Peers(folder, server_svid)
    try:
        yield found
    finally:
        found.agent.stop(None).wait()
        found.server.stop(None).wait()


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with running(tmp_path_factory.mktemp("s"), leaf("spiffe://corp.test/spire/server")) as found:
        yield found


@pytest.fixture(autouse=True)
def _honest(peers: Peers) -> None:
    peers.say, peers.give = good, lambda: svids(OURS)


def test_a_downstream_ca_comes_back(peers: Peers) -> None:
    found = accept(peers.upstream().mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="spire")
    assert found.roots == (ROOT.der,)


def test_the_svid_that_was_named_is_used(peers: Peers) -> None:
    peers.give = lambda: svids(leaf("spiffe://corp.test/other"), OURS)
    accept(peers.upstream(spiffe_id="spiffe://corp.test/limen").mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="spire")
    for more in ({}, {"spiffe_id": "spiffe://corp.test/third"}):
        with pytest.raises(Forbidden, match="LM1612"):
            peers.upstream(**more).mint(CSR, NOW)


def refuse(csr: bytes) -> spire_pb2.NewDownstreamX509CAResponse:
    raise PermissionError("not a downstream\x1b workload")


def fail(csr: bytes) -> spire_pb2.NewDownstreamX509CAResponse:
    raise OSError("no datastore")


def answer(*chain: bytes, roots: tuple[bytes, ...] = (ROOT.der,)) -> Callable[[bytes], object]:
    return lambda csr: spire_pb2.NewDownstreamX509CAResponse(ca_cert_chain=chain, x509_authorities=roots)


@pytest.mark.parametrize(
    ("say", "code"),
    [
        pytest.param(refuse, "LM1612", id="refused"),
        pytest.param(fail, "LM1613", id="failed"),
        pytest.param(answer(), "LM1611", id="nothing"),
        pytest.param(answer(b"\x00"), "LM1614", id="bytes"),
        pytest.param(answer(OURS.der), "LM1611", id="a-leaf"),
        pytest.param(answer(ROOT.der), "LM1611", id="the-root-itself"),
        pytest.param(answer(b"\x00" * (2 << 20)), "LM1613", id="large"),
        pytest.param(answer(OURS.der, roots=()), "LM1611", id="no-roots"),
    ],
)
def test_any_other_answer_has_its_code(peers: Peers, say: Callable[[bytes], object], code: str) -> None:
    peers.say = say  # type: ignore[assignment]
    with pytest.raises(Problem, match=code) as caught:
        accept(peers.upstream().mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="spire")
    assert "\x1b" not in str(caught.value)


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=3), st.lists(st.binary(max_size=40), max_size=2))
def test_any_bytes_are_a_problem_with_a_code(peers: Peers, chain: list[bytes], roots: list[bytes]) -> None:
    peers.say = lambda csr: spire_pb2.NewDownstreamX509CAResponse(ca_cert_chain=chain, x509_authorities=roots)
    with pytest.raises(Invalid, match=r"LM1611|LM1614"):
        accept(peers.upstream().mint(CSR, NOW), KEY, DOMAIN, NOW, upstream="spire")


@pytest.mark.parametrize(
    "changed",
    [{"x509_svid": b"x"}, {"bundle": b"x"}, {"spiffe_id": "x"}, {"x509_svid": b""}, {"x509_svid_key": b"x"}],
    ids=lambda found: next(iter(found)) + str(len(next(iter(found.values())))),
)
def test_an_agent_that_gives_something_else_has_its_code(peers: Peers, changed: dict[str, object]) -> None:
    given = svids(OURS)
    for name, value in changed.items():
        setattr(given.svids[0], name, value)
    peers.give = lambda: given
    with pytest.raises(Problem, match=r"LM1614|LM3011"):
        peers.upstream().mint(CSR, NOW)


def test_an_agent_that_ends_the_stream_without_a_word_has_its_code(peers: Peers) -> None:
    peers.is_silent = True
    with pytest.raises(Unavailable, match="LM1613"):
        peers.upstream().mint(CSR, NOW)
    peers.is_silent = False


def test_an_svid_of_another_trust_domain_is_refused(peers: Peers) -> None:
    peers.give = lambda: svids(leaf("spiffe://other.test/limen"))
    with pytest.raises(Forbidden, match="LM1612"):
        peers.upstream().mint(CSR, NOW)


@pytest.mark.parametrize("path", ["spiffe://corp.test/spire/agent/x", "spiffe://corp.test/limen"])
def test_another_workload_that_answers_in_the_servers_place_is_refused(tmp_path: pathlib.Path, path: str) -> None:
    with running(tmp_path, leaf(path)) as found, pytest.raises(Forbidden, match="LM1612"):
        found.upstream().mint(CSR, NOW)


def test_a_server_of_another_root_is_refused(tmp_path: pathlib.Path) -> None:
    other = root(begin=NOW - DAY, end=NOW + DAY)
    svid = leaf("spiffe://corp.test/spire/server", other)
    with running(tmp_path, svid) as found, pytest.raises(Unavailable, match="LM1613"):
        found.upstream().mint(CSR, NOW)


def test_nobody_there_is_said(peers: Peers, tmp_path: pathlib.Path) -> None:
    for more in ({"address": f"127.0.0.1:{free_port()}"}, {"workload_api": f"unix://{tmp_path}/none"}):
        with pytest.raises(Unavailable, match="LM1613"):
            peers.upstream(**more).mint(CSR, NOW)


@pytest.mark.parametrize(
    "more",
    [{"address": "host"}, {"address": ":1"}, {"address": "h:x"}, {"address": "h:70000"}, {"workload_api": "tcp:x"}],
)
def test_addresses_that_are_none_are_refused(peers: Peers, more: dict[str, str]) -> None:
    with pytest.raises(Invalid, match="LM1610"):
        peers.upstream(**more)


@pytest.mark.peer
@pytest.mark.slow
def test_a_real_spire_server_signs_an_issuing_authority(tmp_path: pathlib.Path) -> None:
    with running_spire(tmp_path) as spire:
        spire.entry("/limen", "-downstream")
        found = SpireUpstream(
            DOMAIN,
            address=spire.address,
            workload_api=spire.workload_api,
            clock=SystemClock(),
            life=dt.timedelta(hours=2),
        )
        answer_ = _eventually(lambda: found.mint(CSR, NOW))
        now = SystemClock().now()
        accepted = accept(answer_, KEY, DOMAIN, now, upstream=found.name)
        assert dt.timedelta(hours=1) < accepted.not_after - now < dt.timedelta(hours=3)
        # an entry that is no downstream one: refused
        spire.entry("/plain")
        plain = SpireUpstream(
            DOMAIN,
            address=spire.address,
            workload_api=spire.workload_api,
            clock=SystemClock(),
            spiffe_id="spiffe://corp.test/plain",
        )
        refused = _eventually(lambda: _refusal(plain))
        assert "PERMISSION_DENIED" in refused


def _refusal(found: SpireUpstream) -> str:
    try:
        found.mint(CSR, NOW)
    except Forbidden as err:
        if "spiffe-id" in str(err) or "name spiffe" in str(err):
            # the agent has not heard of the entry yet
            raise
        return str(err)
    raise AssertionError("it was signed")


def _eventually(act: Callable[[], T]) -> T:
    # the agent asks its server every five seconds
    for _ in range(60):
        try:
            return act()
        except Forbidden as err:
            last = err
            time.sleep(0.25)
    raise last
