"""`python -m policyengine.regoworker`: the process in which Rego runs, so that it can be cut off.

The engine is a C++ library: a rule may keep it busy for hours, and a bug in it ends its process. So it runs in one
that holds no secret and starts nothing, is killed with its parent, and by it when it takes too long or grows too large
(`policyengine.rego`; the library reserves so much address space that a limit on that means nothing). Messages are JSON
behind four bytes of length, on stdin and stdout:
`{"load": {"modules", "data", "entrypoints", "strict"}}` is answered by `{"refused": [...]}`, and
`{"ask": ENTRYPOINT, "input": DOCUMENT}` by `{"value": ...}`, or `{}` for undefined. An engine's error is `{"error"}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import re
import resource
import signal
import tempfile
from collections.abc import Mapping
from typing import BinaryIO

import regopy

from policyengine.regocheck import check_plan

MAX_MESSAGE_BYTES = 128 << 20
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_ERROR = re.compile(r"\(error \d+:(?P<name>[^|]*)\|(?P<offset>\d+)\|\d+\s*\(errormsg \d+:(?P<said>[^)]*)\)")
Json = dict[str, object]


class Engine:
    """One loaded program."""

    def __init__(self) -> None:
        self._interpreter: regopy.Interpreter | None = None
        self._bundle: regopy.Bundle | None = None

    def load(self, message: Mapping[str, object]) -> Json:
        """Compile modules over data. A strict program has to pass `check_plan`; one that does not is not kept."""
        modules, data, entrypoints = message["modules"], message["data"], message["entrypoints"]
        assert isinstance(modules, dict)
        assert isinstance(entrypoints, list)
        interpreter = regopy.Interpreter()
        interpreter.log_level = regopy.LogLevel.NONE
        for name, source in modules.items():
            interpreter.add_module(name, source)
        interpreter.add_data_json(_text(data))
        bundle = interpreter.build(None, entrypoints)
        refused: list[str] = []
        if message["strict"]:
            with tempfile.TemporaryDirectory() as folder:
                interpreter.save_bundle(folder, bundle)
                plan = json.loads((pathlib.Path(folder) / "plan.json").read_text("utf-8"))
            refused = sorted(set(check_plan(plan, entrypoints, modules)))
        if not refused:
            self._interpreter, self._bundle = interpreter, bundle
        return {"refused": refused}

    def ask(self, entrypoint: str, document: object) -> Json:
        """Evaluate one entry point for one input."""
        assert self._interpreter is not None, "a program is loaded first"
        assert self._bundle is not None
        self._interpreter.set_input_term(_text(document))
        found = self._interpreter.query_bundle_entrypoint(self._bundle, entrypoint)
        if not found.ok():
            return {"error": "the evaluation failed"}
        text = str(found)
        return {} if text == "undefined" else {"value": json.loads(text)["expressions"][0]}


def answer(engine: Engine, message: Mapping[str, object]) -> Json:
    """Answer one message; what the engine raises is an answer too."""
    modules: dict[str, str] = {}
    try:
        if "load" in message:
            load = message["load"]
            assert isinstance(load, dict)
            modules = load.get("modules", {})
            return engine.load(load)
        return engine.ask(str(message["ask"]), message["input"])
    except (regopy.RegoError, ValueError, KeyError, AssertionError, MemoryError) as err:
        return {"error": _told(err, modules)}


def _text(value: object) -> str:
    r"""JSON in the one spelling in which the library sees equal texts as equal.

    It keeps escapes as they stand: `\u00e9` in data is not the `é` of a module or an input, and an input that is given
    as an object has a bare quote where data and modules have `\"`.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _told(err: Exception, modules: Mapping[str, str]) -> str:
    """What people can read of an engine's error: each message once, with its place, `shop.rego:3:8: ...`."""
    text = str(err)
    said: dict[str, str] = {}
    for found in _ERROR.finditer(text):
        name, source = found["name"], modules.get(found["name"])
        # offsets count bytes
        before = "" if source is None else source.encode()[: int(found["offset"])].decode("utf-8", "replace")
        place = f"{name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: " if source else ""
        said.setdefault(found["said"], place)
    return "; ".join(place + message for message, place in said.items())[:1000] or text[:200] or type(err).__name__


def confine() -> None:
    """Give up what an evaluation does not need."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer messages until the other end is gone."""
    engine = Engine()
    while len(head := source.read(4)) == 4:
        length = int.from_bytes(head, "big")
        if length > MAX_MESSAGE_BYTES:
            return
        body = json.dumps(answer(engine, json.loads(source.read(length)))).encode()
        target.write(len(body).to_bytes(4, "big") + body)
        target.flush()


def main() -> None:
    """Take stdin and stdout for messages alone: the library writes what it thinks to both."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    confine()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to answer
    serve(source, target)


if __name__ == "__main__":
    main()
