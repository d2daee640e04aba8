"""Claims decide on a running installation: an issuer's real web server, a launched service, a caller with a token."""

import contextlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from mesh.clock import SystemClock
from tests.ca.attestation.issuers import EC_KEY, RSA_KEY, jwk, key_set
from tests.enforcer.test_agent import APP

pytestmark = pytest.mark.system
CLIENT = """
import http.client, json, sys
for line in sys.stdin:
    path, headers = json.loads(line)
    c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    c.putrequest("GET", path, skip_host=True)
    for name, value in [["host", "db"], *headers]:
        c.putheader(name, value)
    c.endheaders(); r = c.getresponse(); r.read(); print(r.status, flush=True)
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {{name: db, owner: t}}
spec:
  identities: ["spiffe://test.limen/db"]
  ports: [{{port: 8443, protocol: http}}]
---
apiVersion: limen.dev/v1
kind: Issuer
metadata: {{name: idp, owner: t}}
spec:
  issuer: https://idp.test
  audiences: [shop]
  jwks_uri: {uri}
---
apiVersion: limen.dev/v1
kind: Issuer
metadata: {{name: bound, owner: t}}
spec:
  issuer: https://bound.test
  audiences: [shop]
  jwks_uri: {uri}
  bind: [actor]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: p, owner: t}}
spec:
  service: db
  tier: app
  rules:
  - {{id: open, effect: allow, from: ["spiffe://test.limen/cart"], to: [{{paths: ["/open"]}}]}}
  - id: admin
    effect: allow
    from: ["spiffe://test.limen/cart"]
    to: [{{paths: ["/admin"]}}]
    when: {{claims: {{issuer: https://idp.test, roles: [admin]}}}}
  - id: bound
    effect: allow
    from: ["spiffe://test.limen/cart"]
    to: [{{paths: ["/bound"]}}]
    when: {{claims: {{issuer: https://bound.test}}}}
"""


class Idp:
    """An issuer with a web server."""

    def __init__(self, url: str) -> None:
        self.url, self.body = url, key_set(jwk(RSA_KEY, "r1"))

    def token(self, key: Any = RSA_KEY, kid: str = "r1", **claims: object) -> str:
        now = int(SystemClock().now().timestamp())  # the installation lives by the machine's clock
        said = {"iss": "https://idp.test", "aud": "shop", "exp": now + 300, "roles": ["admin"], **claims}
        return jwt.encode(said, key, algorithm="RS256" if key is RSA_KEY else "ES256", headers={"kid": kid})


@pytest.fixture
def idp() -> Iterator[Idp]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in http.server
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Idp(f"http://127.0.0.1:{server.server_port}/keys")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def launched(installation: Any, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "limen", "--state", str(installation.state), "run", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=100)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def test_a_token_opens_what_its_claims_open_and_nothing_else(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path, idp: Idp
) -> None:
    installation = make_installation()
    (tmp_path / "db").write_text(APP)
    (tmp_path / "cart").write_text(CLIENT)
    installation.rules(
        f'rules:\n- id: s\n  match: {{"launch:script": "{tmp_path}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "all.yaml").write_text(TREE.format(uri=idp.url))
    done = installation.limen("policy", "publish", "--policies", str(tree))
    assert done.returncode == 0, done.stderr
    with (
        launched(installation, "--inbound", "8443=8081", "--", sys.executable, f"{tmp_path}/db", "8081"),
        launched(installation, "--outbound", "9002=db", "--", sys.executable, f"{tmp_path}/cart", "9002") as cart,
    ):

        def get(path: str, *headers: tuple[str, str]) -> int:
            assert cart.stdin is not None
            assert cart.stdout is not None
            cart.stdin.write(json.dumps([path, headers]) + "\n")
            cart.stdin.flush()
            return int(cart.stdout.readline() or 0)

        def bearer(**claims: object) -> tuple[str, str]:
            return "authorization", f"Bearer {idp.token(**claims)}"

        until(lambda: get("/open") == 200, 200)
        until(lambda: get("/admin", bearer()) == 200, 200)
        assert get("/admin") == 403
        assert get("/admin", bearer(roles=["dev"])) == 403
        assert get("/admin", bearer(aud="other")) == 403
        assert get("/admin", bearer(exp=int(SystemClock().now().timestamp()) - 90)) == 403
        assert get("/admin", bearer(iss="https://bound.test", act={"sub": "spiffe://test.limen/cart"})) == 403
        assert get("/admin", bearer(), bearer()) == 403
        assert get("/admin?access_token=a.b.c", bearer()) == 403
        # A44: whose token it is matters where the issuer says so
        assert get("/bound", bearer(iss="https://bound.test", act={"sub": "spiffe://test.limen/cart"})) == 200
        assert get("/bound", bearer(iss="https://bound.test", act={"sub": "spiffe://test.limen/web"})) == 403
        # A46: another key signs, and nobody knows it until the issuer says so
        other = ("authorization", f"Bearer {idp.token(EC_KEY, 'e1')}")
        assert get("/admin", other) == 403
        idp.body = key_set(jwk(RSA_KEY, "r1"), jwk(EC_KEY, "e1"))
        until(lambda: get("/admin", other) == 200, 200)
        # and an issuer that talks nonsense takes nothing away
        idp.body = b"down"
        assert get("/admin", bearer()) == 200
