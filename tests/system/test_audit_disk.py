"""What a whole running installation leaves on its disks: every denial that a caller was told, and no secret."""

import base64
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet
import pytest

from enforcer import control
from mesh.problems import Unavailable
from tests.ports import free_port

pytestmark = pytest.mark.system
APP = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"hi")
    do_POST = do_PUT = do_GET
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
# sends what it is told, in base64, and tells what came back; it keeps nothing
CLIENT = """
import base64, socket, sys
for line in sys.stdin:
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60) as sock:
            sock.sendall(base64.b64decode(line))
            while part := sock.recv(65536):
                data += part
    except OSError:
        pass
    print(base64.b64encode(data).decode(), flush=True)
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {name: db, owner: t}
spec:
  identities: ["spiffe://test.limen/db"]
  ports: [{port: 8400, protocol: http}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {name: p, owner: t}
spec:
  service: db
  tier: app
  rules:
  - {id: open, effect: allow, from: ["spiffe://test.limen/cart"], to: [{paths: ["/open", "/open/**"]}]}
  - id: tenant
    effect: allow
    from: ["spiffe://test.limen/cart"]
    to: [{paths: ["/tenant"]}]
    when: {headers: {x-tenant: [a]}}
"""


class Shop:
    """A service and a program that calls it."""

    def __init__(self, installation: Any, client: subprocess.Popen[str]) -> None:
        self.installation, self._client = installation, client

    def send(self, raw: bytes) -> bytes:
        """What comes back for some bytes on a connection of their own."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(base64.b64encode(raw).decode() + "\n")
        self._client.stdin.flush()
        return base64.b64decode(self._client.stdout.readline())

    def ask(self, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "host: db", "connection: close", *fields]
        lines += [f"content-length: {len(body)}"] if body else []
        return self.send("\r\n".join([*lines, "", ""]).encode() + body)


def is_connected(installation: Any) -> bool:
    try:
        return control.ask(installation.state / "control.sock", {"type": "status"}).get("connected") is True
    except Unavailable:
        return False


def begin_anew(installation: Any, until: Callable[..., Any], *names: str) -> None:
    """Have parts of it read their settings: each ends, and is started again."""
    for name in names:
        pid = installation.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: _is_another(installation, name, pid), 200)
    until(lambda: is_connected(installation), 200)


def _is_another(installation: Any, name: str, pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(installation.pid(name) != pid)
    return False


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
        process.wait(timeout=200)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def shop(installation: Any, folder: pathlib.Path, until: Callable[..., Any], app_code: str = APP) -> Iterator[Shop]:
    (folder / "db").write_text(app_code)
    (folder / "cart").write_text(CLIENT)
    installation.rules(
        f'rules:\n- id: s\n  match: {{"launch:script": "{folder}/*"}}\n  spiffe_id: "/{{launch:script_basename}}"\n'
    )
    (folder / "tree").mkdir()
    port, app, local = free_port(), free_port(), free_port()
    (folder / "tree" / "all.yaml").write_text(TREE.replace("8400", str(port)))
    done = installation.limen("policy", "publish", "--policies", str(folder / "tree"))
    assert done.returncode == 0, done.stderr
    with (
        launched(installation, "--inbound", f"{port}={app}", "--", sys.executable, f"{folder}/db", str(app)),
        launched(installation, "--outbound", f"{local}=db", "--", sys.executable, f"{folder}/cart", str(local)) as cart,
    ):
        found = Shop(installation, cart)
        until(lambda: found.ask("/open").startswith(b"HTTP/1.1 200"), 200)
        yield found


def files(*folders: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """Every file below, as it is; one that goes away meanwhile is not there."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file():
                    found[path] = path.read_bytes()
    return found


def test_whoever_was_told_of_a_denial_was_told_what_is_on_the_disk_when_all_is_killed_then(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    (installation.state / "records.yaml").write_text("spool: {sync: denials}\n")
    begin_anew(installation, until, "agent")
    with shop(installation, tmp_path, until) as found:
        parts = [installation.process.pid, installation.pid("agent"), installation.pid("server")]
        answer = found.ask("/closed")
        for pid in parts:
            os.kill(pid, signal.SIGKILL)
        installation.process.wait(timeout=200)
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    told = json.loads(answer.partition(b"\r\n\r\n")[2])["decision"]
    places = files(installation.state / "spool", installation.state / "audit")
    assert [path for path, data in places.items() if told.encode() in data]


def test_allowed_requests_are_sampled_as_the_settings_say_and_counted_exactly(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    (installation.state / "records.yaml").write_text("spool: {allowed_one_of: 20}\n")
    begin_anew(installation, until, "agent")

    def inbound() -> tuple[int, int, int]:
        """At the called side: denials, requests of one rule that have a record, and those that were counted alone."""
        done = installation.limen("audit", "export", "--format", "jsonl")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        inbound = [row for row in rows if row["kind"] == "decision" and row["direction"] == "inbound"]
        left_out = [item for row in rows if row["kind"] == "sampled" for item in row["left_out"]]
        counted = sum(item["records"] for item in left_out if item["rule"] == "tenant")
        return (
            sum(row["decision"] == "deny" for row in inbound),
            sum(row["rule"] == "tenant" for row in inbound),
            counted,
        )

    with shop(installation, tmp_path, until) as found:
        # by a rule that nothing else asked for
        request = b"GET /tenant HTTP/1.1\r\nhost: db\r\nx-tenant: a\r\n"
        answer = found.send((request + b"\r\n") * 199 + request + b"connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 ") == 200
        for _ in range(5):
            assert found.ask("/closed").startswith(b"HTTP/1.1 403 ")
        until(lambda: (row := inbound())[0] >= 5 and row[1] + row[2] >= 200, 200)
        _, kept, counted = inbound()
    assert (kept, counted) == (kept, 200 - kept)
    assert 0 < kept < counted


def secret(number: int) -> str:
    """A secret that stands nowhere else: letters and digits alone, so that no form escapes it."""
    return f"planted{number:02d}" + base64.b32encode(os.urandom(20)).decode().rstrip("=")


def spellings(text: str) -> list[bytes]:
    """A text as a file may hold it: as it is, percent-encoded, in hexadecimal, in base64 at each of three offsets."""
    data = text.encode()
    found = [data, "".join(f"%{byte:02X}" for byte in data).encode(), data.hex().encode(), data.hex().upper().encode()]
    for offset in range(3):
        # what the neighbours of the first and the last bytes change is left out
        whole = base64.b64encode(b"\0" * offset + data + b"\0" * (-(len(data) + offset) % 3))
        found.append(whole[4 if offset else 0 : -4])
        found.append(whole[4 if offset else 0 : -4].translate(bytes.maketrans(b"+/", b"-_")))
    return found


def inside(path: pathlib.Path, data: bytes) -> bytes:
    """What a file says, besides its own bytes: the columns of Parquet, which are compressed."""
    if path.suffix != ".parquet":
        return data
    return data + json.dumps(pyarrow.parquet.read_table(path).to_pylist(), default=str).encode()


def test_a_secret_is_found_however_it_is_spelled() -> None:
    text = secret(0)
    for before in ("", "x", "xy"):
        said = f"{before}{text}z".encode()
        forms = [said, base64.b64encode(said), base64.urlsafe_b64encode(said), said.hex().encode()]
        assert all(any(one in form for one in spellings(text)) for form in forms)
    assert not any(one in b"planted" * 40 for one in spellings(text))


def test_planted_secrets_reach_no_file_of_a_whole_running_installation(
    make_installation: Callable[..., Any], until: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    state, out = installation.state, tmp_path / "out"
    out.mkdir()
    (state / "records.yaml").write_text("mask: {drop: [x-ssn], hash: [x-user], tokenise: [order-id]}\n")
    (state / "exports.yaml").write_text(f"exports: [{{name: lines, to: 'file://{out}/lines'}}]\n")
    begin_anew(installation, until, "server", "agent")
    some = [secret(number) for number in range(20)]
    canary = "canary" + secret(99)[9:]
    with shop(installation, tmp_path, until) as found:
        for target in ("/open", "/closed", "/tenant"):
            found.ask(target, f"authorization: Bearer {some[0]}", f"cookie: session={some[1]}", f"x-api-key: {some[2]}")
            found.ask(target, f"authorization: Basic {base64.b64encode(f'u:{some[3]}'.encode()).decode()}")
            found.ask(target, f"x-ssn: {some[4]}", f"x-user: {some[5]}", f"order-id: {some[6]}", f"x-tenant: {some[7]}")
            found.ask(f"{target}?access_token={some[8]}&order-id={some[9]}&anything={some[10]}")
            found.ask(target, method="POST", body=f'{{"password": "{some[11]}"}}'.encode())
            found.ask(target, f"proxy-authorization: Digest {some[12]}", f"referer: https://a/?token={some[13]}")
            # what is refused before any rule is asked
            found.ask(target, f"authorization : {some[14]}")
            found.ask(target, f"x_secret: {some[15]}")
            found.send(f"GET {target}?token={some[16]} HTTP/1.0\r\nhost: db\r\n\r\n".encode())
            found.send(f"{some[17]}\r\n\r\n".encode())
        found.ask(f"/open/{canary}?q={some[18]}")
        some[19] = str(json.loads(installation.limen("token", "create", "-o", "json").stdout)["token"])

        def has_come(*places: pathlib.Path) -> bool:
            found = {path: inside(path, data) for path, data in files(state / "audit", out).items()}
            return all(
                any(canary.encode() in data for path, data in found.items() if path.is_relative_to(place))
                for place in places
            )

        # it went the whole way: through sidecar, agent and server into the log, and from there into both exports
        until(lambda: has_come(state / "audit", out / "lines"), 300)
        done = installation.limen("audit", "export", "--format", "parquet", "--to", f"file://{out}/days/")
        assert done.returncode == 0, done.stderr
        assert has_come(out / "days")
        while_running = files(state, out)
    installation.process.send_signal(signal.SIGTERM)
    assert installation.process.wait(timeout=200) == 0
    wanted = {text: spellings(text) for text in some}
    for places in (while_running, files(state, out)):
        everything = {path: inside(path, data) for path, data in places.items()}
        assert {"checkpoint", "limen.sqlite", "lines"} <= {path.name for path in everything}
        leaks = [
            (path, some.index(text))
            for text, forms in wanted.items()
            for path, data in everything.items()
            if any(one in data for one in forms)
        ]
        assert leaks == []
        assert any(canary.encode() in data for path, data in everything.items() if path.is_relative_to(state / "audit"))
