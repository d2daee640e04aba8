import subprocess
import sys

import pytest


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
        timeout=60,
        check=False,
    )
    assert done.returncode in {2, 3}, done.stderr
    assert code in done.stderr
