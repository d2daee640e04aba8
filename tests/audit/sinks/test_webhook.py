import base64
import json
import pathlib

import pytest
import standardwebhooks

from audit.destination import Options, parse_destination
from audit.sinks.webhook import WebhookSink, read_secret
from mesh.clock import SystemClock
from mesh.problems import Problem
from tests.audit.formats.samples import as_json, samples
from tests.audit.receivers import Certificates
from tests.audit.sinks.answering import Answering

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def made(tmp_path: pathlib.Path) -> Certificates:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return Certificates(tmp_path)


def sink_of(made: Certificates, port: int, **options: pathlib.Path) -> WebhookSink:
    given = Options(ca=made.ca, **options)  # type: ignore[arg-type]  # paths alone
    return WebhookSink(
        parse_destination(f"https://localhost:{port}/in?a=b", "jsonl", given), "corp.test/audit", SystemClock().now
    )


def test_a_receiver_verifies_the_signature_by_its_own_library(tmp_path: pathlib.Path, made: Certificates) -> None:
    with Answering(made=made) as server:
        sink = sink_of(made, server.port, secret_file=tmp_path / "secret")
        sink.send(samples())
        sink.close()
    ((path, headers, body),) = server.got
    assert path == "/in?a=b"
    assert [json.loads(line) for line in body.splitlines()] == [as_json(data) for _, data in samples()]
    receiver = standardwebhooks.Webhook(SECRET)
    try:
        receiver.verify(body, headers)
    except json.JSONDecodeError:
        # it verified, and would read one document where there are lines
        pass
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        receiver.verify(body + b" ", headers)
    other = standardwebhooks.Webhook("whsec_" + base64.b64encode(bytes(32)).decode())
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        other.verify(body, headers)


def test_a_batch_that_comes_again_has_the_same_id(made: Certificates) -> None:
    with Answering(status=503, made=made) as server:
        sink = sink_of(made, server.port)
        with pytest.raises(Problem) as caught:
            sink.send(samples()[:2])
        server.status = 204
        sink.send(samples()[:2])
        sink.send(samples()[2:3])
        sink.close()
    assert "503" in caught.value.message
    ids = [headers["webhook-id"] for _, headers, _ in server.got]
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)
    assert all("webhook-signature" not in headers for _, headers, _ in server.got)


def test_a_redirect_is_not_followed(made: Certificates) -> None:
    with Answering(status=302, made=made) as server:
        sink = sink_of(made, server.port)
        with pytest.raises(Problem) as caught:
            sink.send(samples()[:1])
        sink.close()
    assert (caught.value.code, len(server.got)) == ("LM6101", 1)


def test_a_receiver_that_another_authority_vouches_for_gets_nothing(tmp_path: pathlib.Path, made: Certificates) -> None:
    (tmp_path / "other").mkdir()
    with Answering(made=Certificates(tmp_path / "other")) as server:
        sink = sink_of(made, server.port)
        with pytest.raises(Problem) as caught:
            sink.send(samples()[:1])
        sink.close()
    assert (caught.value.code, server.got) == ("LM6101", [])


@pytest.mark.parametrize(("word", "expected"), [("abc", "Bearer abc"), ("Splunk abc", "Splunk abc")])
def test_a_token_stands_in_a_header(word: str, expected: str, tmp_path: pathlib.Path, made: Certificates) -> None:
    (tmp_path / "token").write_text(word)
    with Answering(made=made) as server:
        sink = sink_of(made, server.port, token_file=tmp_path / "token")
        sink.send(samples()[:1])
        sink.close()
    assert server.got[0][1]["authorization"] == expected


@pytest.mark.parametrize("text", ["short", "whsec_!!!", "whsec_YWJj"])
def test_a_secret_that_protects_nothing_is_refused(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(Problem) as caught:
        read_secret(tmp_path / "secret", "https://a")
    assert caught.value.code == "LM6100"
    with pytest.raises(Problem) as caught:
        read_secret(tmp_path / "none", "https://a")
    assert caught.value.code == "LM6100"
    (tmp_path / "plain").write_text("p" * 24)
    assert read_secret(tmp_path / "plain", "https://a") == b"p" * 24
