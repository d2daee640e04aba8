import datetime as dt
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy as sa

from ca.keyledger import GRACE, LedgeredKeys
from ca.keys import KeyAlgorithm, spki_der
from ca.keysource import DatabaseKeys, KeySource, MemoryKeys
from ca.upstream.chain import Upstream, Upstreamed, UpstreamPending, read_csr
from ca.upstream.request import UpstreamRequests
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url, transaction
from mesh.problems import Invalid, Unavailable
from mesh.wrapping import WrappingKey
from tests.ca.upstream.chains import DOMAIN, NOW, Signs, root

ROOT = root()


@pytest.fixture
def keys(engine: sa.Engine, wrapping: WrappingKey) -> KeySource:
    migrate(engine, "ca")
    return DatabaseKeys(engine, wrapping)


def requests(engine: sa.Engine, keys: KeySource, upstream: Upstream) -> UpstreamRequests:
    return UpstreamRequests(engine=engine, keys=keys, upstream=upstream, trust_domain=DOMAIN)


def test_what_comes_back_is_ready_to_sign(engine: sa.Engine, keys: KeySource) -> None:
    found = requests(engine, keys, Signs(ROOT)).prepare(NOW)
    assert spki_der(keys.load(found.name).public_key) == spki_der(found.key.public_key)
    assert (len(found.chain), found.roots) == (1, (ROOT.der,))
    assert found.not_after > NOW


class Fails:
    """An upstream that fails a few times first."""

    name = "fails"

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.behind = Signs(ROOT)
        self.asked: list[bytes] = []

    def mint(self, csr: bytes, now: dt.datetime) -> Upstreamed:
        self.asked.append(csr)
        if self.problems:
            raise self.problems.pop(0)
        return self.behind.mint(csr, now)


def test_a_request_that_failed_is_sent_again_unchanged(engine: sa.Engine, keys: KeySource) -> None:
    upstream = Fails(
        Unavailable("LM1613", upstream="fails", reason="it is down"), UpstreamPending("LM1615", request="file")
    )
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"LM1613|LM1615"):
            requests(engine, keys, upstream).prepare(NOW)
    found = requests(engine, keys, upstream).prepare(NOW)
    assert len(set(upstream.asked)) == 1
    assert len(upstream.asked) == 3
    assert keys.names() == {found.name}


def test_an_answer_that_must_not_be_used_leaves_the_request(engine: sa.Engine, keys: KeySource) -> None:
    with pytest.raises(Invalid, match="LM1611"):
        requests(engine, keys, Signs(ROOT, ca=False, signs=False)).prepare(NOW)
    before = keys.names()
    found = requests(engine, keys, Signs(ROOT)).prepare(NOW)
    assert before == {found.name}


def test_a_settled_request_makes_room_for_the_next(engine: sa.Engine, keys: KeySource) -> None:
    maker = requests(engine, keys, Signs(ROOT))
    first = maker.prepare(NOW)
    assert maker.names() == {first.name}
    with transaction(engine) as connection:
        maker.settle(connection, first.name)
    assert maker.names() == frozenset()
    assert maker.prepare(NOW).name != first.name


def test_a_key_that_was_in_memory_takes_its_request_with_it(engine: sa.Engine) -> None:
    migrate(engine, "ca")
    upstream = Fails(UpstreamPending("LM1615", request="file"), UpstreamPending("LM1615", request="file"))
    for _ in range(2):
        with pytest.raises(UpstreamPending):
            requests(engine, MemoryKeys(), upstream).prepare(NOW)
    assert len({spki_der(read_csr(csr)) for csr in upstream.asked}) == 2
    with transaction(engine) as connection:
        assert len(connection.execute(sa.text("SELECT name FROM ca_upstream_requests")).all()) == 1


CHILD = """
    import os, pathlib, signal, sys
    import datetime as dt
    from ca.keyledger import LedgeredKeys
    from ca.keysource import DatabaseKeys
    from ca.upstream import request
    from ca.upstream.request import UpstreamRequests
    from mesh.clock import ManualClock
    from mesh.database import open_database
    from mesh.spiffe import TrustDomain
    from mesh.wrapping import WrappingKey

    die = lambda *found: os.kill(os.getpid(), signal.SIGKILL)

    class Upstream:
        name = "dies"
        mint = staticmethod(die)

    now = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
    if sys.argv[2] == "before-record":
        request.build_csr = die
    engine = open_database(sys.argv[1])
    keys = LedgeredKeys(DatabaseKeys(engine, WrappingKey(b"w" * 32, beside_state=False)), engine, ManualClock(now))
    UpstreamRequests(engine=engine, keys=keys, upstream=Upstream(), trust_domain=TrustDomain("corp.test")).prepare(now)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before-record", "while-it-signs"])
def test_a_kill_at_any_moment_leaves_one_request_and_no_orphan(
    tmp_path: pathlib.Path, wrapping: WrappingKey, moment: str
) -> None:
    url = sqlite_url(tmp_path / "ca.db")
    engine = open_database(url)
    migrate(engine, "ca")
    child = [sys.executable, "-c", textwrap.dedent(CHILD), url, moment]
    assert subprocess.run(child, check=False, timeout=500).returncode == -signal.SIGKILL
    clock = ManualClock(NOW)
    keys = LedgeredKeys(DatabaseKeys(engine, wrapping), engine, clock)
    left = keys.names()
    maker = requests(engine, keys, Signs(ROOT))
    found = maker.prepare(NOW)
    assert len(left) == 1
    assert (found.name in left) is (moment == "while-it-signs")
    clock.advance(GRACE)
    keys.sweep(maker.names())
    assert keys.names() == {found.name}
    assert found.key.algorithm is KeyAlgorithm.P256
    engine.dispose()
