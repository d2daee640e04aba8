import pathlib

import pytest

from ca.keys import KeyAlgorithm, generate
from ca.upstream.chain import UpstreamPending, build_csr
from ca.upstream.offline import OfflineUpstream
from limen.offlineroot import take, waiting
from mesh.problems import Invalid, NotFound
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
