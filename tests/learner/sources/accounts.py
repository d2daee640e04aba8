"""Ledgers and whole readings, for the tests of the readers."""

import pathlib

from learner.sources.formats import read_source
from learner.sources.ledger import Ledger
from mesh.flow import Flow
from mesh.problems import Diagnostic

DATA = pathlib.Path(__file__).parent.parent / "data"


def ledger(source: str = "test") -> Ledger:
    return Ledger(file="x", source=source)


def read(path: pathlib.Path, form: str = "auto") -> tuple[list[Flow], Ledger, list[Diagnostic]]:
    """What a file holds, its account and its findings."""
    findings: list[Diagnostic] = []
    account = ledger(form)
    return list(read_source(path, form, findings, account)), account, findings


def read_text(tmp_path: pathlib.Path, text: str | bytes, form: str = "auto") -> tuple[list[Flow], Ledger]:
    """What a text holds, and its account."""
    path = tmp_path / "input"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    flows, account, _ = read(path, form)
    return flows, account


def seen(flow: Flow) -> str:
    """A flow in one line: who, whom, how, what became of it."""
    words = [f"{flow.source_ip} > {flow.destination_ip}:{flow.destination_port}", flow.protocol]
    words += [str(word) for word in (flow.method, flow.path, flow.status) if word is not None]
    words.append({None: "?", True: "yes", False: "no"}[flow.established])
    if flow.verdict is not None:
        words.append(str(flow.verdict))
    return " ".join(words)
