import contextlib
import http.client
import http.server
import pathlib
import socket
import threading
from collections.abc import Iterator

import pytest

from mesh.keysets import AGAIN_S, KEEP_S, REFRESH_S, KeySets, Source, read_source
from mesh.problems import Unavailable
from tests.ca.attestation.issuers import EC_KEY, RSA_KEY, jwk, key_set


class Issuer:
    """A source whose keys, and mood, change."""

    def __init__(self) -> None:
        self.now, self.asked = 1000.0, 0
        self.answer: bytes | Exception = key_set(jwk(RSA_KEY, "r1"))
        self.sets = KeySets(self.fetch, lambda: self.now)
        self.source = Source(place="https://issuer.test/keys")

    def fetch(self, source: Source) -> bytes:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def kids(self, kid: str = "r1") -> list[str]:
        return [key.kid for key in self.sets.get(self.source, kid)]


def test_keys_are_kept_and_asked_for_again_when_one_is_missing_but_not_at_will() -> None:
    issuer = Issuer()
    assert [issuer.kids(), issuer.kids(), issuer.asked] == [["r1"], ["r1"], 1]
    for _ in range(50):
        assert issuer.kids("unknown") == ["r1"]
    assert issuer.asked == 1
    issuer.now += AGAIN_S
    issuer.answer = key_set(jwk(RSA_KEY, "r1"), jwk(EC_KEY, "e1"))
    assert issuer.kids("e1") == ["r1", "e1"]
    issuer.now += REFRESH_S
    issuer.answer = key_set(jwk(EC_KEY, "e1"))
    assert issuer.kids("e1") == ["e1"]


@pytest.mark.parametrize("answer", [TimeoutError("slow"), ValueError("it answered 500"), b"no key set"], ids=str)
def test_an_issuer_that_is_gone_is_replaced_by_its_last_keys_for_a_day(answer: bytes | Exception) -> None:
    issuer = Issuer()
    issuer.kids()
    issuer.answer = answer
    issuer.now += KEEP_S - 1
    assert issuer.kids() == ["r1"]
    issuer.now += AGAIN_S
    with pytest.raises(Unavailable, match="LM1249"):
        issuer.kids()
    with pytest.raises(Unavailable, match="asked just now"):
        issuer.kids()


def test_no_keys_were_ever_had() -> None:
    issuer = Issuer()
    issuer.answer = ConnectionRefusedError(111, "Connection refused")
    with pytest.raises(Unavailable, match="Connection refused"):
        issuer.kids()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/keys")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/gone" else 404)
        self.end_headers()
        if self.path == "/large":
            self.wfile.write(b" " * 400_000)
        elif self.path == "/authorized":
            self.wfile.write(self.headers["authorization"].encode())
        else:
            self.wfile.write(key_set())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in http.server
        return


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("mesh.keysets.FETCH_WITHIN_S", 60.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_source_is_fetched_with_bounds(url: str, tmp_path: pathlib.Path) -> None:
    assert read_source(Source(place=url + "/keys")) == key_set()
    assert len(read_source(Source(place=url + "/large"))) < 300_000
    for path in ("/moved", "/gone"):
        with pytest.raises(ValueError, match="answered"):
            read_source(Source(place=url + path))
    (tmp_path / "keys").write_bytes(key_set())
    assert read_source(Source(place=str(tmp_path / "keys"))) == key_set()
    with pytest.raises(OSError, match="refused"):
        read_source(Source(place="http://127.0.0.1:1/"))


def test_an_issuer_that_drips_does_not_hold_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.keysets.FETCH_WITHIN_S", 0.3)
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.05):
                sock.sendall(b"x-a: b\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        with pytest.raises((OSError, http.client.HTTPException)):
            read_source(Source(place=f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        over.set()
        thread.join()


def test_what_is_held_says_how_old_it_is() -> None:
    issuer = Issuer()
    issuer.kids()
    issuer.now += 100
    assert issuer.sets.held(issuer.source).age_s == 100
