"""The process in which Rego runs: what it answers on its pipes. The library is never loaded into the tests' own."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

LOAD = {
    "modules": {"m": "package a\n\nx if input.b == 1\n\nd := 1 if input.b\nd := 2 if input.c\n"},
    "data": {},
    "entrypoints": ["a/x", "a/d"],
    "strict": True,
}
Worker = subprocess.Popen[bytes]


@pytest.fixture
def worker() -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "policyengine.regoworker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as found:
        yield found
        found.kill()


def send(worker: Worker, message: object) -> None:
    body = json.dumps(message).encode()
    assert worker.stdin is not None
    worker.stdin.write(len(body).to_bytes(4, "big") + body)
    worker.stdin.flush()


def call(worker: Worker, message: object) -> dict[str, object]:
    send(worker, message)
    assert worker.stdout is not None
    found = json.loads(worker.stdout.read(int.from_bytes(worker.stdout.read(4), "big")))
    assert isinstance(found, dict)
    return found


def test_values_undefined_and_conflicts(worker: Worker) -> None:
    assert call(worker, {"load": LOAD}) == {"refused": []}
    assert call(worker, {"ask": "a/x", "input": {"b": 1}}) == {"value": True}
    assert call(worker, {"ask": "a/x", "input": {"b": 2}}) == {}
    assert call(worker, {"ask": "a/d", "input": {"b": 1, "c": 1}}) == {"error": "the evaluation failed"}


@pytest.mark.parametrize("text", ["\u00e9", 'a"b', "a\\b", "a\tb", "\x01", "\U0001f511", "\u2028"])
def test_a_text_is_the_same_in_module_data_and_input(worker: Worker, text: str) -> None:
    literal = json.dumps(text, ensure_ascii=False)
    module = f"package a\n\nx if input.b == {literal}\n\nd if data.known[input.b]\n"
    load = {**LOAD, "strict": False, "modules": {"m": module}, "data": {"known": {text: True}}}
    assert call(worker, {"load": load}) == {"refused": []}
    assert call(worker, {"ask": "a/x", "input": {"b": text}}) == {"value": True}
    assert call(worker, {"ask": "a/d", "input": {"b": text}}) == {"value": True}
    assert call(worker, {"ask": "a/d", "input": {"b": text + "."}}) == {}


def test_what_is_no_program_is_an_error_in_words(worker: Worker) -> None:
    modules = {"a.rego": "package b", "b/m.rego": "package a\n# é\nx if { input.y == }"}
    found = call(worker, {"load": {**LOAD, "modules": modules}})
    assert found["error"] == "b/m.rego:3:16: Invalid boolean operator"
    assert "error" in call(worker, {"ask": "a/x", "input": {}})


def test_a_refused_program_is_not_kept(worker: Worker) -> None:
    found = call(worker, {"load": {**LOAD, "modules": {"m": "package a\nx if opa.runtime()\nd := 1"}}})
    assert found == {"refused": ["m:2: the function `opa.runtime` is not allowed"]}
    assert "error" in call(worker, {"ask": "a/x", "input": {}})


@pytest.mark.parametrize("end", [pytest.param(b"", id="end"), pytest.param(b"\xff\xff\xff\xff", id="too-long")])
def test_ends_with_its_parent_and_at_a_message_beyond_all_bounds(worker: Worker, end: bytes) -> None:
    out, _ = worker.communicate(end, timeout=100)
    assert (out, worker.returncode) == (b"", 0)
