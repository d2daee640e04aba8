"""What the commands of `limen learn` have in common: traffic in, a history and the account of its sources out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from learner.attribution import TRUST_DOMAIN, Workloads, from_endpoints, read_workloads
from learner.history import History
from learner.nat import Translations, read_translations
from learner.remembering import Memory, NotAHistory, read, write
from learner.schedules import Schedule, ScheduleError, read_schedules
from learner.sources.ledger import Ledger
from learner.specs import SpecError, Specs, read_spec
from limen.cli import render
from limen.cli.flowinput import FORMAT_NAMES, detect, format_help, read_input
from limen.files import replace_file
from limen.flowfold import Odd, fold_large, is_large
from mesh.flow import Flow
from mesh.problems import Diagnostic, Invalid

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)
MAX_FILE_BYTES = 16 << 20


@dataclasses.dataclass(slots=True)
class Traffic:
    """What was read: the memory of it, what was held out, and the accounts of the sources."""

    memory: Memory
    held_out: list[Flow]
    ledgers: list[Ledger]
    identities: frozenset[str]
    skipped: list[str]
    missing: tuple[str, ...] = ()

    @property
    def history(self) -> History:
        """The history."""
        return self.memory.history

    @property
    def losses(self) -> tuple[str, ...]:
        """What keeps the sources from being the whole of the traffic."""
        return (
            *(f"{ledger.file}: {text}" for ledger in self.ledgers for text in ledger.limits()),
            *(f"server: {text}" for text in self.missing),
        )


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> object:
    """Keep an option of attribution where `read_traffic` finds it: no command has a use of its own for it."""
    ctx.meta[f"limen.learn.{param.name}"] = value
    return value


def _given(name: str) -> Any:  # noqa: ANN401  as click has it
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(f"limen.learn.{name}")


def trust_domain_of() -> str:
    """The trust domain of identities that Kubernetes objects name."""
    return str(_given("trust_domain") or TRUST_DOMAIN)


def traffic_options(command: F) -> F:
    """Add the options that say what is read."""
    for option in reversed(
        (
            click.option(
                "--from", "files", multiple=True, type=click.Path(path_type=pathlib.Path),
                help="A capture, a file of flows, or a directory of Parquet. May be repeated."
                " [default: what the server's learner saw]",
            ),
            click.option(
                "--format", "form", type=click.Choice(FORMAT_NAMES), default="auto", show_default=True,
                help=format_help(),
            ),
            click.option(
                "--workloads", type=_FILE,
                help="Which address was whom, when: lines, or `kubectl get pods,services,endpoints,nodes -A -o json`.",
            ),
            click.option(
                "--trust-domain", default=TRUST_DOMAIN, show_default=True, expose_value=False, callback=_remember,
                help="Of identities that Kubernetes objects name.",
            ),
            click.option(
                "--registry", is_flag=True, expose_value=False, callback=_remember,
                help="Ask this installation's server where its workloads' listeners are.",
            ),
            click.option(
                "--nat", type=_FILE, expose_value=False, callback=_remember,
                help="What conntrack printed: whose addresses were translated in the other sources.",
            ),
            click.option(
                "--schedules", multiple=True, type=_FILE,
                help="Calls that are declared: rows, CronJob objects, `.timer` units, crontabs. May be repeated.",
            ),
            click.option(
                "--history", type=_FILE,
                help="A file that remembers what was read before; read first, and written at the end.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def read_traffic(
    files: tuple[pathlib.Path, ...],
    form: str,
    workloads: pathlib.Path | None,
    history: pathlib.Path | None,
    held_out: dt.date | None = None,
) -> Traffic:
    """Read all files into a history.

    Without any file, and without a memory, it is what the learner beside the server knows.

    Raises Invalid LM4004 when there is no flow at all, LM4031 for a memory that cannot be read, LM4035 for a server
    that learned nothing yet.
    """
    if not files and history is None:
        return _from_server(held_out)
    if history is not None and any(file.is_dir() for file in files):
        raise click.UsageError("--history remembers files: a directory of Parquet is read whole each time, without it")
    findings: list[Diagnostic] = []
    known = Workloads()
    if workloads is not None:
        known, wrong = read_workloads(workloads, trust_domain_of())
        findings += wrong
    if _given("registry"):
        from limen import client  # noqa: PLC0415  only where a server is asked

        known.add(from_endpoints(client.call("GET", "/v1/endpoints")))
    nat = _given("nat")
    translations = read_translations(nat, findings) if nat is not None else Translations()
    memory = recall(history)
    found = Traffic(memory, [], [], known.identities(), [])
    for file in files:
        if history is not None:
            digest = _digest(file)
            if digest in memory.inputs:
                found.skipped.append(str(file))
                render.say(f"{file} was read before, and is not counted twice")
                continue
            memory.inputs.append(digest)
        render.progress(f"reading {file}")
        ledger = Ledger(file=str(file), source=form)
        found.ledgers.append(ledger)
        is_ours = form == "limen" or (form == "auto" and is_large(file) and detect(file) == "limen")
        if is_ours and nat is None and held_out is None and not known.identities() and _fold_large(found, file, ledger):
            continue
        _fold(found, known.attribute(translations.apply(read_input(file, form, findings, ledger))), held_out)
    render.diagnostics(findings)
    if not memory.history.flows:
        raise Invalid("LM4004", files=", ".join(map(str, files)) or "no file")
    return found


def _from_server(held_out: dt.date | None) -> Traffic:
    from limen.cli.learnserver import flows_of_server, known_to_server  # noqa: PLC0415  only where a server is asked

    if held_out is not None:
        ledger = Ledger(file="server", source="limen")
        found = Traffic(Memory(History()), [], [ledger], frozenset(), [])
        _fold(found, iter(flows_of_server()), held_out)
        ledger.seen = ledger.flows = found.history.flows + len(found.held_out)
        return found
    known = known_to_server()
    count = known.memory.history.flows
    ledger = Ledger(file="server", source="limen", seen=count, flows=count)
    return Traffic(known.memory, [], [ledger], known.identities, [], known.losses)


def _fold_large(found: Traffic, file: pathlib.Path, ledger: Ledger) -> bool:
    """Fold a large file of our own flows at once; False leaves it to the reader that goes line by line."""
    if not is_large(file):
        return False
    try:
        count = fold_large(file, found.history)
    except Odd:
        render.say("the flows are read line by line: something in the file is unusual")
        return False
    ledger.source = "limen"
    ledger.seen = ledger.flows = count
    return True


def _fold(found: Traffic, flows: Iterator[Flow], held_out: dt.date | None) -> None:
    if held_out is None:
        found.memory.history.add(flows)
        return
    for flow in flows:
        if flow.start.date() == held_out:
            found.held_out.append(flow)
        else:
            found.memory.history.fold(flow)


def recall(file: pathlib.Path | None) -> Memory:
    """The memory in a file; a new one when there is none yet.

    Raises Invalid LM4031.
    """
    if file is None or not file.exists():
        return Memory(History())
    try:
        with file.open(encoding="utf-8") as lines:
            return read(lines)
    except NotAHistory as err:
        raise Invalid("LM4031", file=str(file), reason=str(err)) from err
    except (OSError, UnicodeDecodeError) as err:
        raise Invalid("LM4031", file=str(file), reason=str(err)) from err


def remember(memory: Memory, file: pathlib.Path | None) -> None:
    """Write a memory, whole or not at all.

    Raises Invalid LM4031.
    """
    if file is None:
        return
    try:
        replace_file(file, "".join(line + "\n" for line in write(memory)).encode(), mode=0o600)
    except OSError as err:
        raise Invalid("LM4031", file=str(file), reason=err.strerror or str(err)) from err


def schedules_of(files: tuple[pathlib.Path, ...]) -> tuple[Schedule, ...]:
    """The declared schedules of some files.

    Raises Invalid LM4001, LM4005.
    """
    found: list[Schedule] = []
    for file in files:
        try:
            found += read_schedules(_text(file), str(file))
        except ScheduleError as err:
            raise Invalid("LM4005", file=str(file), line=err.line) from err
    return tuple(found)


def specs_of(named: tuple[str, ...]) -> Specs:
    """The specifications that were named, `FILE` or `SERVICE=FILE`.

    Raises Invalid LM4001, LM4032.
    """
    rows = []
    for text in named:
        service, equals, name = text.rpartition("=")
        file = pathlib.Path(name if equals else text)
        try:
            rows += [(service, item) for item in read_spec(_text(file), str(file))]
        except SpecError as err:
            raise Invalid("LM4032", file=str(file), reason=str(err)) from err
    return Specs(rows)


def _text(file: pathlib.Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise Invalid("LM4001", file=str(file), reason="it is larger than 16 MiB")
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise Invalid("LM4001", file=str(file), reason=str(err)) from err


def _digest(file: pathlib.Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as err:
        raise Invalid("LM4001", file=str(file), reason=err.strerror or str(err)) from err
