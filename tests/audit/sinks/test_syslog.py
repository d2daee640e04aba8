import json
import pathlib
import socket
import ssl
import threading

import pytest

from audit.destination import Options, parse_destination
from audit.sinks.syslog import SyslogSink, frame
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, as_json, samples
from tests.audit.receivers import Certificates, free_port, rsyslog, until


@pytest.fixture
def made(tmp_path: pathlib.Path) -> Certificates:
    return Certificates(tmp_path)


def sink_of(made: Certificates, port: int, form: str = "syslog") -> SyslogSink:
    return SyslogSink(parse_destination(f"syslog+tls://localhost:{port}", form, Options(ca=made.ca)))


@pytest.mark.slow
@pytest.mark.peer
def test_rsyslog_receives_every_record_in_its_order(tmp_path: pathlib.Path, made: Certificates) -> None:
    port = free_port()
    with rsyslog(tmp_path, made, port) as received:
        sink = sink_of(made, port)
        sink.send(samples())
        sink.send(samples()[:1])
        until(lambda: received.exists() and received.read_bytes().count(b"\n") == len(SAMPLES) + 1, "all messages")
        sink.close()
    rows = [line.split("\t") for line in received.read_text("utf-8").split("\n")[:-1]]
    # rsyslog leaves the space before a message
    bodies = [json.loads(row[6]) for row in rows]
    assert bodies == [as_json(data) for _, data in [*samples(), samples()[0]]]
    assert {tuple(row[:4:3]) for row in rows} == {("audit", "limen")}
    assert rows[list(SAMPLES).index("denied")][1] == "warning"
    assert rows[0][2:5] == ["corp.test", "limen", "decision"]
    unfriendly = rows[list(SAMPLES).index("unfriendly texts")][5]
    assert 'policy="p\\"\\]\\\\=|"' in unfriendly


@pytest.mark.slow
@pytest.mark.peer
def test_rsyslog_receives_other_forms_as_messages(tmp_path: pathlib.Path, made: Certificates) -> None:
    port = free_port()
    with rsyslog(tmp_path, made, port) as received:
        sink = sink_of(made, port, "cef")
        sink.send(samples())
        until(lambda: received.exists() and received.read_bytes().count(b"\n") == len(SAMPLES), "all messages")
        sink.close()
    assert all("CEF:0|Limen|Limen|" in line.split("\t")[6] for line in received.read_text("utf-8").split("\n")[:-1])


@pytest.mark.slow
@pytest.mark.peer
def test_a_receiver_that_comes_back_gets_what_it_did_not_have(tmp_path: pathlib.Path, made: Certificates) -> None:
    port = free_port()
    sink = sink_of(made, port)
    with pytest.raises(Problem) as caught:
        sink.send(samples()[:2])
    assert caught.value.code == "LM6101"
    with rsyslog(tmp_path, made, port) as received:
        sink.send(samples()[:2])
        until(lambda: received.exists() and received.read_bytes().count(b"\n") == 2, "both messages")
    with pytest.raises(Problem):
        sink.send(samples()[2:3])
    with rsyslog(tmp_path, made, port):
        sink.send(samples()[2:3])
        until(lambda: received.read_bytes().count(b"\n") == 3, "the third message")
        sink.close()


def test_a_receiver_that_another_authority_vouches_for_gets_nothing(tmp_path: pathlib.Path, made: Certificates) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(other.cert, other.key)

        def serve() -> None:
            plain, _ = server.accept()
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as link:
                        got.append(link.recv(1))
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Problem) as caught:
            sink_of(made, server.getsockname()[1]).send(samples()[:1])
        thread.join(60)
    assert (caught.value.code, got) == ("LM6101", [])


def test_a_frame_counts_octets() -> None:
    assert frame("é".encode()) == b"2 \xc3\xa9"
