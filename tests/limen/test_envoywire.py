"""Bytes to an Envoy and back: frames, header blocks, throw-away certificates."""

import os
import pathlib
import socket
from typing import Any

import pytest
from cryptography import x509

from limen.envoywire import Authority, Reply, _text, ask_http1, ask_http2, in_memory
from mesh.clock import SystemClock


def answered(reply: bytes, ask: Any) -> tuple[Reply, bytes]:
    """What is read of an answer, and what was sent before it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)
        found = ask(ours)
        ours.shutdown(socket.SHUT_WR)
        return found, theirs.recv(1 << 16)


@pytest.mark.parametrize(
    ("raw", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nx-limen-rule: app/p/r,x\r\n\r\n", Reply(status=200, rule="app/p/r,x")),
        (b"HTTP/1.1 403 Forbidden\r\nX-Limen-Rule:a\r\n\r\n", Reply(status=403, rule="a")),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reply(status=400)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-limen-rule: a\r\n\r\n", Reply(status=200, rule="a")),
        (b"nonsense\r\n\r\n", Reply(status=0)),
        (b"HTTP/1.1 200", Reply(status=0)),
        (b"", Reply(status=0)),
    ],
)
def test_the_head_of_an_answer_says_status_and_rule(raw: bytes, reply: Reply) -> None:
    found, sent = answered(raw, lambda connection: ask_http1(connection, b"GET /\xff HTTP/1.1\r\n\r\n"))
    assert found == reply
    assert sent == b"GET /\xff HTTP/1.1\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0, b"")


@pytest.mark.parametrize(
    ("raw", "reply"),
    [
        (SETTINGS + frame(1, 4, 1, b"\x88") + frame(0, 1, 1, b"200 app/p/r,x"), Reply(status=200, rule="app/p/r,x")),
        (SETTINGS + frame(1, 4, 1, b"H") + frame(0, 0, 1, b"403 ") + frame(0, 1, 1, b"-"), Reply(status=403, rule="-")),
        (SETTINGS + frame(1, 5, 1, b"\x88"), Reply(status=200)),
        (SETTINGS + frame(3, 0, 1, b"\0\0\0\1"), Reply(status=0)),
        (SETTINGS + frame(7, 0, 0, b"\0" * 8), Reply(status=0)),
        (SETTINGS[:5], Reply(status=0)),
    ],
)  # fmt: skip
def test_frames_are_read_until_the_request_is_answered(raw: bytes, reply: Reply) -> None:
    found, sent = answered(raw, lambda connection: ask_http2(connection, [(b":path", b"/\xff;x")]))
    assert found == reply
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"\x00\x05:path\x04/\xff;x" in sent


@pytest.mark.parametrize(
    ("size", "prefix"), [(1, b"\x01"), (126, b"\x7e"), (127, b"\x7f\x00"), (1337, b"\x7f\xba\x09")]
)
def test_lengths_are_integers_of_a_seven_bit_prefix(size: int, prefix: bytes) -> None:
    assert _text(b"a" * size) == prefix + b"a" * size


def test_a_leaf_has_the_names_that_it_is_given_to_the_letter() -> None:
    certificate, _ = Authority(SystemClock().now()).leaf("spiffe://a/b", "http://x y")
    found = x509.load_pem_x509_certificate(certificate.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert found.value.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a/b", "http://x y"]


def test_keys_are_in_memory_and_gone_after_use() -> None:
    with in_memory("secret") as path:
        assert pathlib.Path(path).read_text() == "secret"
        assert "memfd" in os.readlink(path)
    assert not pathlib.Path(path).exists() or "memfd" not in os.readlink(path)
