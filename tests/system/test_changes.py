"""A changed identity rule reaches a workload that waits at `agent.sock`, without anybody polling."""

import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mesh.proto import workload_pb2 as pb
from mesh.proto import workload_pb2_grpc

pytestmark = pytest.mark.system
RULES = """\
rules:
- id: me
  match: {{"unix:uid": "{uid}"}}
  spiffe_id: "/turn/{turn}"
"""
# tells every identity that it is given, and goes on when it has none yet
TELLER = """\
import sys, time, grpc
from mesh.proto import workload_pb2 as pb, workload_pb2_grpc
stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(grpc.insecure_channel(sys.argv[1]))
while True:
    try:
        for message in stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),)):
            print(message.svids[0].spiffe_id, flush=True)
    except grpc.RpcError as problem:
        print(problem.details(), flush=True)
        time.sleep(0.2)
"""
LAUNCHED = """\
rules:
- id: me
  match: {{"launch:script": "{script}"}}
  spiffe_id: "/turn/{turn}"
  direct: true
"""
TURNS = int(os.environ.get("LIMEN_TURNS", "20"))


def write(installation: Any, turn: object) -> None:
    """As editors do: whole, and then in the place of the old one."""
    new = installation.state / "identities.new"
    new.write_text(RULES.format(uid=os.getuid(), turn=turn), "utf-8")
    new.rename(installation.state / "identities.yaml")


def test_an_open_stream_has_the_new_svid_long_before_anybody_would_have_looked(
    make_installation: Callable[..., Any],
) -> None:
    installation = make_installation()
    write(installation, "begin")
    took = []
    with grpc.insecure_channel(f"unix:{installation.state / 'agent.sock'}") as channel:
        stub: Any = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]
        end = time.monotonic() + 100
        while True:
            stream = stub.FetchX509SVID(pb.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),))
            try:
                next(stream)
                break
            except grpc.RpcError:
                assert time.monotonic() < end
                time.sleep(0.1)
        for turn in range(TURNS):
            begin = time.perf_counter()
            write(installation, turn)
            while next(stream).svids[0].spiffe_id != f"spiffe://test.limen/turn/{turn}":
                continue
            took.append(time.perf_counter() - begin)
        stream.cancel()
    p50, p99 = statistics.median(took) * 1000, sorted(took)[int(len(took) * 0.99)] * 1000
    sys.stdout.write(f"write to new SVID on an open stream: p50 {p50:.1f} ms, p99 {p99:.1f} ms, n {len(took)}\n")
    # each turn begins when the one before was seen: to whom looks once a second every turn takes a whole second
    assert min(took[1:]) < 0.5, took


def test_a_launched_workload_that_runs_has_what_changed_rules_give_it(
    make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    installation = make_installation()
    script = tmp_path / "teller.py"
    script.write_text(TELLER, "utf-8")
    run = ["--state", str(installation.state), "run", "--"]
    program = [sys.executable, str(script), f"unix:{installation.state / 'agent.sock'}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "limen", *run, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert running.stdout is not None
    assert running.stderr is not None
    late = threading.Timer(150, running.kill)
    late.start()
    try:
        # no rule fits yet, and who launched it is told why
        while "LM1210" not in (line := running.stderr.readline()):
            assert line
        assert running.stdout.readline().startswith("LM3460")
        for turn in ("waited", "other", "third"):
            # each SVID is for an hour: without the change nobody would ask again before half of it
            installation.rules(LAUNCHED.format(script=script, turn=turn))
            while (line := running.stdout.readline()) != f"spiffe://test.limen/turn/{turn}\n":
                assert line, f"nothing was told of {turn}"
    finally:
        late.cancel()
        running.terminate()
        running.wait(timeout=100)
        running.stdout.close()
        running.stderr.close()
