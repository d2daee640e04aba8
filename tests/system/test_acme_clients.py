"""certbot, lego and dehydrated as they are, against a running server: every kind of proof that each has.

None of the three can change an account's key from its command line; `tests/acmeclient.py` does that.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from cryptography import x509

from tests.acmepeers import Names, TlsPair, tls, web
from tests.ca.upstream.stepca import binary
from tests.ports import free_port

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.system]
HOOK = """#!/bin/sh
# certbot, lego and dehydrated each call it in their own words; dehydrated calls it for much else too
case "$1" in
  present) name=${2%.}; text=$3 ;;
  cleanup) name=${2%.}; rm -f "$ZONE/$name"; exit 0 ;;
  deploy_challenge) name=_acme-challenge.$2; text=$4 ;;
  clean_challenge) rm -f "$ZONE/_acme-challenge.$2"; exit 0 ;;
  "") name=_acme-challenge.$CERTBOT_DOMAIN; text=$CERTBOT_VALIDATION ;;
  *) exit 0 ;;
esac
echo "$text" >> "$ZONE/$name"
"""


@dataclasses.dataclass(slots=True, kw_only=True)
class Place:
    """A server with ACME, the names of its world, and where proofs are looked for."""

    state: pathlib.Path
    folder: pathlib.Path
    directory: str
    http_port: int
    tls_port: int
    names: Names

    @property
    def root(self) -> pathlib.Path:
        return self.folder / "root.pem"

    @property
    def hook(self) -> pathlib.Path:
        return self.folder / "hook"

    def limen(self, *words: str) -> str:
        command = [sys.executable, "-m", "limen", "--state", str(self.state), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def binding(self) -> tuple[str, str]:
        found = json.loads(self.limen("acme", "eab", "create", "-o", "json"))
        return found["kid"], found["hmac_key"]

    def run(self, *words: str, fails: bool = False) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ZONE": str(self.names.folder),
            "REQUESTS_CA_BUNDLE": str(self.root),
            "LEGO_CA_CERTIFICATES": str(self.root),
            "EXEC_PATH": str(self.hook),
        }
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=self.folder
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def crl(self) -> pathlib.Path:
        """The revocation list of now, PEM."""
        import ssl
        import urllib.request

        context = ssl.create_default_context(cafile=str(self.root))
        url = self.directory.replace("/acme/directory", "/crl/acme.crl")
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            found = x509.load_der_x509_crl(answer.read())
        from cryptography.hazmat.primitives.serialization import Encoding

        path = self.folder / "crl.pem"
        path.write_bytes(found.public_bytes(Encoding.PEM))
        return path


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # short: socket paths are limited to 107 bytes
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-a-"))
    state = folder / "state"
    state.mkdir()
    names = Names(folder / "zone")
    http_port, tls_port = free_port(), free_port()
    (state / "acme.yaml").write_text(
        f"names: [test]\naddresses: [127.0.0.0/8]\nresolver: 127.0.0.1:{names.port}\n"
        f"http_port: {http_port}\ntls_port: {tls_port}\n"
    )
    (folder / "hook").write_text(HOOK)
    (folder / "hook").chmod(0o755)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", str(state), "server", "--trust-domain", "test.limen"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    assert any(line == "ready server\n" for line in process.stdout), (folder / "log").read_text()
    address = json.loads((state / "run" / "server.json").read_text())["addresses"]["tls"]
    directory = address.replace("127.0.0.1", "localhost") + "/acme/directory"
    found = Place(state=state, folder=folder, directory=directory, http_port=http_port, tls_port=tls_port, names=names)
    found.root.write_text(found.limen("acme", "root"))
    yield found
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 0
    process.stdout.close()
    names.close()
    shutil.rmtree(folder)


def check(place: Place, name: str, chain: pathlib.Path, key: pathlib.Path) -> int:
    """OpenSSL accepts what a web server shows with these files, for that name; the leaf's serial number."""
    port = free_port()
    with tls(TlsPair(chain, key), port):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-CAfile", str(place.root),
             "-verify_return_error", "-verify_hostname", name, "-brief"],
            input="", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Verification: OK" in done.stderr
    leaf, *_ = x509.load_pem_x509_certificates(chain.read_bytes())
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    ) == [name]
    return leaf.serial_number


def is_revoked(place: Place, chain: pathlib.Path) -> bool:
    """Whether OpenSSL refuses the leaf by the list that the server publishes, and for that alone."""
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", str(place.root), "-untrusted", str(chain), "-crl_check",
         "-CRLfile", str(place.crl()), str(chain)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "certificate revoked" in done.stderr, done.stderr
    return done.returncode != 0


class Certbot:
    """certbot with folders of its own."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.folder = place, place.folder / name
        self.program = binary("certbot")

    def __call__(self, *words: str, fails: bool = False) -> str:
        folders = [f"--{name}-dir={self.folder}" for name in ("config", "work", "logs")]
        return self.place.run(self.program, *words, "--non-interactive", *folders, fails=fails)

    def ask(self, name: str, *words: str, binding: tuple[str, str] | None = None, fails: bool = False) -> str:
        bound = [] if binding is None else ["--eab-kid", binding[0], "--eab-hmac-key", binding[1]]
        return self(
            "certonly", "--server", self.place.directory, "-d", name, "-m", "you@corp.test", "--agree-tos", *bound,
            *words, fails=fails,
        )  # fmt: skip

    def files(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        live = self.folder / "live" / name
        return live / "fullchain.pem", live / "privkey.pem"


def test_certbot_proves_by_http_renews_and_revokes(place: Place) -> None:
    bot, binding = Certbot(place, "certbot-http"), place.binding()
    alone = ("--standalone", "--http-01-port", str(place.http_port), "--http-01-address", "127.0.0.1")
    # without a binding there is no account
    assert "Unable to register an account" in bot.ask("web.test", *alone, fails=True)
    bot.ask("web.test", *alone, binding=binding)
    first = check(place, "web.test", *bot.files("web.test"))
    bot("renew", "--force-renewal", "--no-random-sleep-on-renew")
    second = check(place, "web.test", *bot.files("web.test"))
    assert first != second
    assert not is_revoked(place, bot.files("web.test")[0])
    bot("revoke", "--cert-name", "web.test", "--server", place.directory, "--no-delete-after-revoke")
    assert is_revoked(place, bot.files("web.test")[0])
    # one binding lets one account in
    other = Certbot(place, "certbot-other")
    other.ask("web.test", *alone, binding=binding, fails=True)
    bot("unregister", "--server", place.directory)


def test_certbot_proves_a_wildcard_by_dns(place: Place) -> None:
    bot = Certbot(place, "certbot-dns")
    hooks = ("--manual", "--preferred-challenges", "dns", "--manual-auth-hook", str(place.hook))
    bot.ask("*.wild.test", *hooks, "--manual-cleanup-hook", "true", "--cert-name", "wild", binding=place.binding())
    leaf = x509.load_pem_x509_certificates(bot.files("wild")[0].read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.wild.test"]


LEGO = {
    "http-01": ("--http", "--http.port", "127.0.0.1:{http}"),
    "tls-alpn-01": ("--tls", "--tls.port", "127.0.0.1:{tls}"),
    "dns-01": ("--dns", "exec", "--dns.resolvers", "127.0.0.1:{dns}", "--dns.propagation-disable-ans"),
}


@pytest.mark.parametrize("kind", LEGO)
def test_lego_proves_renews_and_revokes(place: Place, kind: str) -> None:
    (kid, hmac), name, folder = place.binding(), f"{kind}.test", place.folder / f"lego-{kind}"
    ports = {"http": place.http_port, "tls": place.tls_port, "dns": place.names.port}
    words = [
        binary("lego"), "--server", place.directory, "--accept-tos", "--email", "you@corp.test", "--path", str(folder),
        "--domains", name, *(word.format(**ports) for word in LEGO[kind]), "--eab", "--kid", kid, "--hmac", hmac,
    ]  # fmt: skip
    place.run(*words, "run")
    files = folder / "certificates" / f"{name}.crt", folder / "certificates" / f"{name}.key"
    first = check(place, name, *files)
    place.run(*words, "renew", "--days", "400", "--no-random-sleep")
    assert check(place, name, *files) != first
    assert not is_revoked(place, files[0])
    place.run(*words, "revoke", "--keep")
    assert is_revoked(place, files[0])


@pytest.mark.parametrize("kind", ["http-01", "dns-01", "tls-alpn-01"])
def test_dehydrated_proves_renews_and_revokes(place: Place, kind: str) -> None:
    (kid, hmac), name, folder = place.binding(), f"{kind}.dehydrated.test", place.folder / f"dehydrated-{kind}"
    for found in (folder, folder / "www", folder / "alpn"):
        found.mkdir()
    (folder / "config").write_text(
        f'CA="{place.directory}"\nBASEDIR="{folder}"\nWELLKNOWN="{folder}/www"\nALPNCERTDIR="{folder}/alpn"\n'
        f'CHALLENGETYPE="{kind}"\nCURL_OPTS="--cacert {place.root}"\nEAB_KID="{kid}"\nEAB_HMAC_KEY="{hmac}"\n'
        'CONTACT_EMAIL="you@corp.test"\n'
        + (f'HOOK="{place.hook}"\n' if kind == "dns-01" else "")
        # its RSA keys of 4096 bits take their time: once is enough
        + ('ACCOUNT_KEYSIZE="2048"\n' if kind != "http-01" else "")
    )
    words = [binary("dehydrated"), "--config", str(folder / "config")]
    place.run(*words, "--register", "--accept-terms")
    with (
        web(folder / "www", place.http_port),
        tls(TlsPair(folder / "alpn", folder / "alpn", ["acme-tls/1"]), place.tls_port),
    ):
        place.run(*words, "--cron", "--domain", name)
        files = folder / "certs" / name / "fullchain.pem", folder / "certs" / name / "privkey.pem"
        first = check(place, name, *files)
        place.run(*words, "--cron", "--force", "--domain", name)
        assert check(place, name, *files) != first
    assert not is_revoked(place, files[0])
    place.run(*words, "--revoke", str(folder / "certs" / name / "cert.pem"))
    revoked = next((folder / "certs" / name).glob("cert-*-revoked"), None)
    assert revoked is not None
    both = folder / "both.pem"
    both.write_text(revoked.read_text() + files[0].read_text())
    assert is_revoked(place, both)
