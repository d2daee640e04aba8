"""Servers that fork their workers, as callers and as called: gunicorn, nginx and PostgreSQL lose no connection.

Every request is a connection of its own, so each one has its process checked, in whichever worker it begins; workers
are replaced meanwhile, and the new ones' first connections count as all others.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.ports import free_port
from tests.tools import require

pytestmark = [pytest.mark.system, pytest.mark.slow]
REQUESTS, AT_ONCE, RELOADS = 200, 6, 3
SESSIONS = 30
is_root = os.geteuid() == 0

GUNICORN = """#!/usr/bin/python3
from gunicorn.app.wsgiapp import run
run()
"""
WEB = """
import os
def app(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
# what it answers is what it was answered, over a new connection for each request
CALLER = """
import os, urllib.request
def app(environ, start_response):
    with urllib.request.urlopen("http://127.0.0.1:" + os.environ["OUT"] + "/", timeout=120) as answer:
        body = answer.read()
    start_response("200 OK", [("content-type", "text/plain"), ("x-worker", str(os.getpid()))])
    return [body]
"""
NGINX = """
daemon off; worker_processes 3; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; proxy_read_timeout 300s; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{served}; return 200 nginx; }}
  server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://127.0.0.1:{out}; }} }}
}}
"""
TREE = """apiVersion: limen.dev/v1
kind: Service
metadata: {{name: {name}, owner: t}}
spec:
  identities: ["spiffe://test.limen/{identity}"]
  ports: [{{port: {port}, protocol: {protocol}}}]
---
apiVersion: limen.dev/v1
kind: Policy
metadata: {{name: {name}, owner: t}}
spec:
  service: {name}
  tier: app
  rules:
  - {{id: all, effect: allow, from: ["spiffe://test.limen/caller", "spiffe://test.limen/nginx", "spiffe://test.limen/pg"]}}
---
"""


def postgres() -> str:
    """PostgreSQL's programs; Debian keeps them out of PATH."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("not installed: postgresql")
    return str(found[-1].parent)


class Place:
    """An installation in which programs are launched as workloads, until the end."""

    def __init__(self, installation: Any, folder: pathlib.Path) -> None:
        self.installation, self.folder = installation, folder
        self._stack = contextlib.ExitStack()
        self._trees = ""

    def run(self, *words: str, **environment: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", str(self.installation.state), "run", *words],
            env={**os.environ, **environment},
        )
        self._stack.callback(process.wait, 200)
        self._stack.callback(process.terminate)

    def publish(self, name: str, identity: str, port: int, protocol: str) -> None:
        self._trees += TREE.format(name=name, identity=identity, port=port, protocol=protocol)
        tree = self.folder / "tree"
        tree.mkdir(exist_ok=True)
        (tree / "all.yaml").write_text(self._trees)
        done = self.installation.limen("policy", "publish", "--policies", str(tree))
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def place(make_installation: Callable[..., Any]) -> Iterator[Place]:
    # other users read and write below it, which a folder of pytest's own is not for
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-prefork-"))
    folder.chmod(0o755)
    found = Place(make_installation(), folder)
    found.installation.rules(
        f'rules:\n- id: scripts\n  match: {{"launch:path": "/usr/bin/*", "launch:script": "{folder}/*"}}\n'
        '  spiffe_id: "/{launch:script_basename}"\n'
        '- id: nginx\n  match: {"launch:path": "/usr/sbin/nginx"}\n  spiffe_id: "/nginx"\n'
        '- id: pg\n  match: {"launch:path": "/usr/lib/postgresql/*"}\n  spiffe_id: "/pg"\n'
    )
    yield found
    found.close()
    shutil.rmtree(folder)


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=200) as answer:
        return str(answer.read().decode())


def is_answered(port: int) -> bool:
    with contextlib.suppress(OSError):
        get(port)
        return True
    return False


def ask(port: int, reload: Callable[[], None], served: Callable[[str], bool]) -> None:
    """All requests, a reload of the workers in between some of them; every single one is answered."""
    with ThreadPoolExecutor(AT_ONCE) as many:
        asked = []
        for number in range(REQUESTS):
            if number % (REQUESTS // RELOADS) == REQUESTS // RELOADS // 2:
                reload()
            asked.append(many.submit(get, port))
        answers = [found.result() for found in asked]
    assert len(answers) == REQUESTS
    assert all(served(answer) for answer in answers)


def gunicorn(place: Place, name: str, code: str, port: int, *options: str, **environment: str) -> pathlib.Path:
    """Run an application under gunicorn, by a script of its own, which is what gives it its identity."""
    (place.folder / name).write_text(GUNICORN)
    (place.folder / f"{name}_app.py").write_text(code)
    pid = place.folder / f"{name}.pid"
    words = ["--workers", "3", "--bind", f"127.0.0.1:{port}", "--pid", str(pid), "--chdir", str(place.folder)]
    # a worker that is slow is no worker that hangs
    words += ["--timeout", "300", "--graceful-timeout", "300", "--log-level", "error"]
    place.run(
        *(*options, "--", "/usr/bin/python3", str(place.folder / name), *words),
        f"{name}_app:app",
        **environment,
    )
    return pid


def hang_up(pid: pathlib.Path) -> Callable[[], None]:
    """Have a master replace its workers."""
    return lambda: os.kill(int(pid.read_text()), signal.SIGHUP)


def test_gunicorn_calls_and_is_called_while_both_replace_their_workers(
    place: Place, until: Callable[..., object]
) -> None:
    require("gunicorn")
    port, app, out, front = (free_port() for _ in range(4))
    place.publish("web", "web", port, "http")
    web = gunicorn(place, "web", WEB, app, "--inbound", f"{port}={app}")
    caller = gunicorn(place, "caller", CALLER, front, "--outbound", f"{out}=web", OUT=str(out))
    until(lambda: is_answered(front), 200)

    def reload() -> None:
        hang_up(web)()
        hang_up(caller)()

    ask(front, reload, str.isdigit)


def test_nginx_calls_and_is_called_though_its_workers_are_another_user(
    place: Place, until: Callable[..., object]
) -> None:
    require("nginx", "gunicorn")
    port, app, out, front, served, plain, inner = (free_port() for _ in range(7))
    place.publish("web", "web", port, "http")
    place.publish("static", "nginx", served, "http")
    gunicorn(place, "web", WEB, app, "--inbound", f"{port}={app}")
    (place.folder / "nginx.conf").write_text(NGINX.format(folder=place.folder, served=inner, plain=plain, out=out))
    program = ("--", "/usr/sbin/nginx", "-c", str(place.folder / "nginx.conf"))
    place.run("--inbound", f"{served}={inner}", "--outbound", f"{out}=web", *program)
    second = free_port()
    gunicorn(place, "caller", CALLER, front, "--outbound", f"{second}=static", OUT=str(second))
    until(lambda: is_answered(plain) and is_answered(front), 200)
    nginx = hang_up(place.folder / "nginx.pid")
    ask(plain, nginx, str.isdigit)
    ask(front, nginx, lambda answer: answer == "nginx")


@pytest.fixture
def cluster(place: Place) -> Callable[..., pathlib.Path]:
    """Databases of PostgreSQL's own user, launched as workloads; each is a folder with its socket in it."""
    binaries = postgres()
    user = pwd.getpwnam("postgres") if is_root else pwd.getpwuid(os.geteuid())

    def start(name: str, port: int, *options: str) -> pathlib.Path:
        folder = place.folder / name
        folder.mkdir()
        os.chown(folder, user.pw_uid, user.pw_gid)
        subprocess.run(
            [f"{binaries}/initdb", "-D", f"{folder}/data", "-U", "pg", "--auth=trust", "--no-sync"],
            check=True,
            capture_output=True,
            user=user.pw_uid if is_root else None,
        )
        as_whom = ("--user", "postgres") if is_root else ()
        words = ["-D", f"{folder}/data", "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
        place.run(*as_whom, *options, "--", f"{binaries}/postgres", *words, "-c", "fsync=off")
        return folder

    return start


def test_postgresql_calls_and_is_called_from_a_backend_for_each_session(
    place: Place, cluster: Callable[..., pathlib.Path], until: Callable[..., object]
) -> None:
    require("psql")
    port, inner, out, front = (free_port() for _ in range(4))
    place.publish("db", "pg", port, "tcp")
    cluster("far", inner, "--inbound", f"{port}={inner}")
    near = cluster("near", front, "--outbound", f"{out}=db")
    command = ["psql", "-h", str(near), "-p", str(front), "-U", "pg", "-X", "-A", "-t", "-d", "postgres", "-c"]

    def sql(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, text], capture_output=True, text=True, check=False, timeout=120)

    until(lambda: sql("create extension if not exists dblink").returncode == 0, 200)
    # each call of dblink is a connection of this backend's
    there = f"host=127.0.0.1 port={out} user=pg dbname=postgres"
    far = f"select * from dblink('{there}', 'select pg_backend_pid()') as t(x int)"
    until(lambda: sql(far).returncode == 0, 200)
    many = f"select count(distinct x) from generate_series(1, 5), lateral ({far}) as answers"
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda _: sql(many), range(SESSIONS)))
    assert [answer.stderr for answer in answers if answer.returncode] == []
