import pathlib
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.bundle import TrustBundle
from mesh.clock import SystemClock
from mesh.spiffe import TrustDomain
from mesh.x509svid import verify_x509_svid


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--trust-domain", "UPPER"), "LM5214"),
        (("--database", "mysql://x"), "LM5003"),
        (("--reviewers", "/none"), "LM2403"),
        (("--listen", "203.0.113.1"), "LM5212"),
        (("--jwt-issuer", "http://x"), "LM1515"),
        (("--listen", "127.0.0.1:x"), "LM5212"),
        (("--federation-listen", "127.0.0.1:70000"), "LM5212"),
        (("--tls-cert", "/none"), "LM1516"),
        (("--tls-cert", "/none", "--tls-key", "/none"), "LM1516"),
    ],
    ids=["trust-domain", "database", "reviewers", "listen", "issuer", "port", "federation", "no-key", "no-file"],
)
def test_settings_that_do_not_fit_are_refused_with_a_code(
    arguments: tuple[str, ...], code: str, tmp_path: object
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(tmp_path), "server", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode in {2, 3}, done.stderr
    assert code in done.stderr


@pytest.mark.system
def test_a_server_with_ml_dsa_authorities_serves_whoever_can_verify_them(tmp_path: pathlib.Path) -> None:
    """No agent can: that is said by `limen up`, in the log, and by `limen check`."""

    def limen(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "limen", "--state", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    refused = limen("up", "--key-algorithm", "ml-dsa-65")
    assert (refused.returncode, "LM1318" in refused.stderr) == (2, True)
    command = [sys.executable, "-m", "limen", "--state", str(tmp_path), "server", "--key-algorithm", "ml-dsa-65"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready server\n"
        domain = TrustDomain.parse("limen.local")
        assert limen("identity", "issue", f"{domain.id}/job", "--out", str(tmp_path / "out")).returncode == 0
        chain = x509.load_pem_x509_certificates((tmp_path / "out" / "svid.pem").read_bytes())
        assert isinstance(chain[1].public_key(), mldsa.MLDSA65PublicKey)
        roots = x509.load_pem_x509_certificates((tmp_path / "out" / "bundle.pem").read_bytes())
        bundle = TrustBundle(
            trust_domain=domain, x509_authorities=tuple(item.public_bytes(Encoding.DER) for item in roots)
        )
        ders = tuple(item.public_bytes(Encoding.DER) for item in chain)
        found = verify_x509_svid(ders, {domain: bundle}, SystemClock().now())
        assert str(found.spiffe_id) == f"{domain.id}/job"
        assert limen("identity", "rotate", "root").returncode == 0
        assert limen("identity", "revoke", f"{found.serial:x}").returncode == 0
        assert limen("identity", "show", f"{found.serial:x}").returncode == 1
        assert "LM1318" in limen("check").stdout
    finally:
        server.terminate()
        assert server.wait(timeout=100) == 0
        server.stdout.close()
    log_text = (tmp_path / "log").read_text()
    assert "LM1317" in log_text
    assert "LM1318" in log_text
