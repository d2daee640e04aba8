import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from ca.keys import KeyAlgorithm
from ca.upstream.chain import accept, build_csr
from ca.upstream.local import own_root
from limen.sources import open_key_source, open_upstream
from mesh.clock import ManualClock
from mesh.database import migrate, open_database, sqlite_url
from mesh.problems import Invalid, Problem
from mesh.wrapping import WrappingKey
from tests.ca.upstream.chains import DOMAIN, NOW, root
from tests.ca.upstream.stepca import private_pem

CLOCK = ManualClock(NOW)
WRAPPING = WrappingKey(b"w" * 32, beside_state=False)


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[sa.Engine]:
    found = open_database(sqlite_url(tmp_path / "ca.db"))
    migrate(found, "ca")
    yield found
    found.dispose()


@pytest.mark.parametrize("text", ["database", "memory", "disk"])
def test_a_key_source_is_opened_by_its_name(engine: sa.Engine, tmp_path: pathlib.Path, text: str) -> None:
    wrapping = WrappingKey(b"w" * 32, beside_state=False)
    whole = f"disk:{tmp_path / 'keys'}" if text == "disk" else text
    found = open_key_source(whole, engine=engine, wrapping=wrapping, clock=CLOCK)
    assert found.name == text
    found.new("a", KeyAlgorithm.P256)
    assert found.names() == {"a"}


@pytest.mark.parametrize(
    ("text", "code"), [("", "LM1620"), ("disk:keys", "LM1620"), ("vault", "LM1620"), ("pkcs11:x", "LM1608")]
)
def test_any_other_key_source_is_refused(engine: sa.Engine, text: str, code: str) -> None:
    with pytest.raises(Invalid, match=code):
        open_key_source(text, engine=engine, wrapping=WrappingKey(b"w" * 32, beside_state=False), clock=CLOCK)


def test_our_own_root_needs_nobody(tmp_path: pathlib.Path) -> None:
    assert open_upstream("own", trust_domain=DOMAIN, state=tmp_path, wrapping=WRAPPING, clock=CLOCK) is None


def test_an_upstream_is_opened_by_its_words(tmp_path: pathlib.Path) -> None:
    above = root()
    (tmp_path / "root.pem").write_bytes(above.pem)
    for name, key in (("root.key", above.key), ("p.key", ec.generate_private_key(ec.SECP256R1()))):
        (tmp_path / name).write_bytes(private_pem(key))
        (tmp_path / name).chmod(0o600)
    texts = {
        "offline": "offline",
        f"disk:{tmp_path}/root.pem": f"disk:cert={tmp_path}/root.pem,key={tmp_path}/root.key,life=2h",
        "step-ca:https://ca": f"step-ca:url=https://ca,root={tmp_path}/root.pem,provisioner=x,key={tmp_path}/p.key",
        "spire:s:1": "spire:address=s:1,workload-api=unix:///x,spiffe-id=spiffe://corp.test/a,life=1h",
    }
    for name, text in texts.items():
        found = open_upstream(text, trust_domain=DOMAIN, state=tmp_path, wrapping=WRAPPING, clock=CLOCK)
        assert found is not None
        assert found.name == name
        if name.startswith("disk"):
            csr = build_csr(above.key, DOMAIN)
            accepted = accept(found.mint(csr, NOW), above.key, DOMAIN, NOW, upstream=name)
            assert (accepted.not_after - NOW).total_seconds() == 7200
    assert own_root is not None
    with pytest.raises(Problem, match="LM1610"):
        open_upstream("vault:x=y", trust_domain=DOMAIN, state=tmp_path, wrapping=WRAPPING, clock=CLOCK)
