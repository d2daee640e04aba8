import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest
import structlog

from audit.checkpoint import VerifierKey, cosigned_at
from audit.verify import verify_log
from limen.cosigning import Cosigning
from limen.witnessing import Witness
from mesh.clock import ManualClock
from tests.audit.making import KEY, ORIGIN, START, make, open_log

VERIFIER = VerifierKey(name=ORIGIN, key=KEY.public_key())


class Served:
    """A witness behind an HTTP server of the standard library; ``answers`` may change what it says."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.witness = Witness(folder, "w.test", [VERIFIER], ManualClock(START))
        self.asked: list[bytes] = []
        self.override: bytes | None = None
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                served.asked.append(body)
                answer = served.witness.add_checkpoint(body)
                text = answer.body.encode() if served.override is None else served.override
                self.send_response(answer.status)
                if answer.status == 409:
                    self.send_header("content-type", "text/x.tlog.size")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def line(self) -> str:
        return f"witness one {self.witness.key} http://127.0.0.1:{self.server.server_address[1]}\n"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.witness.close()


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[Served]:
    found = Served(tmp_path / "w")
    yield found
    found.close()


def append(folder: pathlib.Path, first: int, last: int) -> None:
    log = open_log(folder)
    log.append([make(number) for number in range(first, last)])
    log.close()


def test_each_checkpoint_is_cosigned_once(served: Served, tmp_path: pathlib.Path) -> None:
    audit, policy = tmp_path / "audit", tmp_path / "witness.policy"
    append(audit, 0, 10)
    policy.write_text(served.line)
    cosigning = Cosigning(audit, policy)
    assert [cosigning.step(), cosigning.step()] == [1, 0]
    append(audit, 10, 300)
    assert cosigning.step() == 1
    found = verify_log(audit, str(VERIFIER), [served.witness.key])
    assert found.is_good
    assert [(item.witness, item.size) for item in found.witnessed] == [("w.test", 300)]
    note = (audit / "witness" / served.witness.key.hash.hex()).read_bytes()
    assert cosigned_at(note, served.witness.key) == int(START.timestamp())
    assert len(served.asked) == 2


def test_a_server_that_began_anew_learns_from_the_witness_how_far_it_is(served: Served, tmp_path: pathlib.Path) -> None:
    audit, policy = tmp_path / "audit", tmp_path / "witness.policy"
    append(audit, 0, 10)
    policy.write_text(served.line)
    assert Cosigning(audit, policy).step() == 1
    append(audit, 10, 20)
    assert Cosigning(audit, policy).step() == 1
    assert [body.split(b"\n")[0] for body in served.asked] == [b"old 0", b"old 0", b"old 10"]


def test_a_log_that_was_brought_back_from_an_old_copy_is_told_so(served: Served, tmp_path: pathlib.Path) -> None:
    audit, policy = tmp_path / "audit", tmp_path / "witness.policy"
    append(audit, 0, 20)
    policy.write_text(served.line)
    assert Cosigning(audit, policy).step() == 1
    append(tmp_path / "old", 0, 10)
    with structlog.testing.capture_logs() as logs:
        assert Cosigning(tmp_path / "old", policy).step() == 0
    assert ["LM6081" in item["reason"] for item in logs] == [True]


def test_another_history_gets_no_cosignature(served: Served, tmp_path: pathlib.Path) -> None:
    policy = tmp_path / "witness.policy"
    append(tmp_path / "audit", 0, 20)
    append(tmp_path / "other", 1, 31)
    policy.write_text(served.line)
    assert Cosigning(tmp_path / "audit", policy).step() == 1
    assert Cosigning(tmp_path / "other", policy).step() == 0
    assert not (tmp_path / "other" / "witness").exists()


@pytest.mark.parametrize("answer", [b"", b"\xff\n", "— w.test AAAA\n".encode(), "— x.test AAAA\n".encode()])
def test_an_answer_that_its_key_did_not_make_is_not_kept(served: Served, tmp_path: pathlib.Path, answer: bytes) -> None:
    append(tmp_path / "audit", 0, 20)
    (tmp_path / "policy").write_text(served.line)
    served.override = answer
    with structlog.testing.capture_logs() as logs:
        cosigning = Cosigning(tmp_path / "audit", tmp_path / "policy")
        assert [cosigning.step(), cosigning.step()] == [0, 0]
    assert not (tmp_path / "audit" / "witness").exists()
    assert logs


def test_a_witness_that_is_away_is_said_once_and_asked_again(served: Served, tmp_path: pathlib.Path) -> None:
    append(tmp_path / "audit", 0, 20)
    line = served.line
    (tmp_path / "policy").write_text(f"{line}witness two {line.split()[2]} http://127.0.0.1:1\n")
    with structlog.testing.capture_logs() as logs:
        cosigning = Cosigning(tmp_path / "audit", tmp_path / "policy")
        cosigning.step()
        cosigning.step()
    assert len(logs) <= 1


def test_a_policy_with_an_error_keeps_the_last_good_one(served: Served, tmp_path: pathlib.Path) -> None:
    append(tmp_path / "audit", 0, 20)
    (tmp_path / "policy").write_text(served.line)
    cosigning = Cosigning(tmp_path / "audit", tmp_path / "policy")
    assert cosigning.step() == 1
    (tmp_path / "policy").write_text("witness nonsense\n")
    append(tmp_path / "audit", 20, 30)
    with structlog.testing.capture_logs() as logs:
        assert cosigning.step() == 1
    assert "LM6082" in logs[0]["reason"]


def test_without_a_policy_nobody_is_asked(tmp_path: pathlib.Path) -> None:
    append(tmp_path / "audit", 0, 20)
    assert Cosigning(tmp_path / "audit", tmp_path / "none").step() == 0
