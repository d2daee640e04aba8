import datetime as dt
import pathlib

import pytest

from ca.keys import KeyAlgorithm, generate
from ca.upstream.chain import UpstreamPending, build_csr
from ca.upstream.local import open_disk
from ca.upstream.offline import OfflineUpstream
from limen.offlineroot import make_root, sign_request, take, waiting
from mesh.problems import Conflict, Invalid, NotFound
from tests.ca.upstream.chains import DOMAIN, NOW, root
from tests.ca.upstream.test_offline import CSR, chain_file


def ask(state: pathlib.Path, csr: bytes = CSR) -> pathlib.Path:
    with pytest.raises(UpstreamPending):
        OfflineUpstream(state / "ca", DOMAIN).mint(csr, NOW)
    return waiting(state)[-1][0]


def test_a_request_waits_and_its_answer_is_taken(tmp_path: pathlib.Path) -> None:
    assert waiting(tmp_path) == []
    request = ask(tmp_path)
    assert "BEGIN CERTIFICATE REQUEST" in waiting(tmp_path)[0][1]
    assert take(tmp_path, chain_file(tmp_path / "chain.pem", root()), NOW) == request
    assert waiting(tmp_path) == []


def test_an_answer_to_nothing_is_refused(tmp_path: pathlib.Path) -> None:
    path = chain_file(tmp_path / "chain.pem", root())
    with pytest.raises(NotFound, match="LM1618"):
        take(tmp_path, path, NOW)
    ask(tmp_path, build_csr(generate(KeyAlgorithm.P256), DOMAIN))
    with pytest.raises(NotFound, match="LM1618"):
        take(tmp_path, path, NOW)


@pytest.mark.parametrize("content", [b"", b"changed", b"\xff\xfe"])
def test_a_request_that_was_changed_by_hand_says_so(tmp_path: pathlib.Path, content: bytes) -> None:
    ask(tmp_path).write_bytes(content)
    with pytest.raises(Invalid, match="LM1616"):
        take(tmp_path, chain_file(tmp_path / "chain.pem", root()), NOW)
    if content == b"\xff\xfe":
        with pytest.raises(Invalid, match="LM1616"):
            waiting(tmp_path)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.P384])
def test_a_root_is_made_and_signs_what_waits(tmp_path: pathlib.Path, algorithm: KeyAlgorithm) -> None:
    key, out, chain = tmp_path / "root.key", tmp_path / "root.pem", tmp_path / "chain.pem"
    make_root(DOMAIN, str(key), out, algorithm=algorithm, life=dt.timedelta(days=9), now=NOW)
    assert key.stat().st_mode & 0o777 == 0o600
    request = ask(tmp_path)
    found = open_disk(DOMAIN, certificates=out, key=str(key), life=dt.timedelta(days=2))
    sign_request(found, request, chain, NOW)
    assert take(tmp_path, chain, NOW) == request


def test_nothing_is_overwritten(tmp_path: pathlib.Path) -> None:
    key, out = tmp_path / "root.key", tmp_path / "root.pem"
    facts = {"algorithm": KeyAlgorithm.P256, "life": dt.timedelta(days=9), "now": NOW}
    make_root(DOMAIN, str(key), out, **facts)  # type: ignore[arg-type]
    before = (key.read_bytes(), out.read_bytes())
    for other in (out, tmp_path / "second.pem"):
        with pytest.raises(Conflict, match="LM1621"):
            make_root(DOMAIN, str(key), other, **facts)  # type: ignore[arg-type]
    found = open_disk(DOMAIN, certificates=out, key=str(key))
    with pytest.raises(Conflict, match="LM1621"):
        sign_request(found, ask(tmp_path), out, NOW)
    assert (key.read_bytes(), out.read_bytes()) == before


def test_a_place_that_cannot_be_written_and_a_file_that_is_no_request_are_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Invalid, match="LM1616"):
        make_root(
            DOMAIN,
            str(tmp_path / "none" / "key"),
            tmp_path / "root.pem",
            algorithm=KeyAlgorithm.P256,
            life=dt.timedelta(days=9),
            now=NOW,
        )
    key, out = tmp_path / "root.key", tmp_path / "root.pem"
    make_root(DOMAIN, str(key), out, algorithm=KeyAlgorithm.P256, life=dt.timedelta(days=9), now=NOW)
    with pytest.raises(Invalid, match="LM1616"):
        sign_request(open_disk(DOMAIN, certificates=out, key=str(key)), out, tmp_path / "chain.pem", NOW)


@pytest.mark.peer
def test_a_root_in_a_token_is_made_once_and_signs(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("pkcs11")
    from tests.ca.softhsm import make_token

    uri = make_token(tmp_path, "limen-vault").replace("token=limen-vault", "token=limen-vault;object=root-2026")
    facts = {"algorithm": KeyAlgorithm.P256, "life": dt.timedelta(days=9), "now": NOW}
    first = make_root(DOMAIN, uri, tmp_path / "first.pem", **facts)  # type: ignore[arg-type]
    second = make_root(DOMAIN, uri, tmp_path / "second.pem", **facts)  # type: ignore[arg-type]
    assert first.public_key() == second.public_key()
    request = ask(tmp_path)
    found = open_disk(DOMAIN, certificates=tmp_path / "first.pem", key=uri)
    sign_request(found, request, tmp_path / "chain.pem", NOW)
    assert take(tmp_path, tmp_path / "chain.pem", NOW) == request
    with pytest.raises(Invalid, match="LM1608"):
        make_root(DOMAIN, uri.replace(";object=root-2026", ""), tmp_path / "x.pem", **facts)  # type: ignore[arg-type]
