"""Problems a caller can act on, findings as values, and the catalogue that holds their sentences.

A `Problem` carries a code and facts; `mesh/catalogue/*.yaml` has the message and the help. Decisions and
findings are values (`Diagnostic`), bugs stay plain exceptions. Nothing here maps to HTTP, gRPC or exit codes
but `EXIT_STATUS`; rims do the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import importlib.resources
import re
import string
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

_UNSAYABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Severity(enum.StrEnum):
    """How bad a finding is: error = will not work or is unsafe; warning = works, will bite."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Entry(TypedDict):
    """One catalogue entry as it stands in the YAML file."""

    name: str
    severity: str
    message: str
    help: str


class Span(NamedTuple):
    """A place in a file: lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(Exception):  # noqa: N818  a Problem is the field's word here; subclasses say which
    """Something the caller can act on: a code of the catalogue and the facts its sentence needs."""

    exit_status = 2

    def __init__(self, code: str, *, span: Span | None = None, **facts: object) -> None:
        super().__init__(code)
        self.code = code
        self.span = span
        self.facts = {name: sayable(value) if isinstance(value, str) else value for name, value in facts.items()}

    @property
    def message(self) -> str:
        """The catalogue's sentence with this problem's facts in it."""
        return render(self.code, self.facts)[0]

    @property
    def help(self) -> str:
        """What to do about it."""
        return render(self.code, self.facts)[1]

    def __str__(self) -> str:
        where = f"{self.span}: " if self.span else ""
        return f"{where}{self.code}: {self.message}"

    def diagnostic(self) -> Diagnostic:
        """The same finding as a value."""
        return Diagnostic(code=self.code, span=self.span, facts=dict(self.facts))


class NotFound(Problem):
    """What was named does not exist."""


class Conflict(Problem):
    """The change contradicts what is already there."""


class Refused(Conflict):
    """The change is possible, and is not made: it would break something, or did not work out."""

    exit_status = 1


class Forbidden(Problem):
    """The caller may not do this."""

    exit_status = 4


class Invalid(Problem):
    """The input breaks a rule that the message states."""


class Unavailable(Problem):
    """A process or file that is needed cannot be reached now."""

    exit_status = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """A finding about an input: code, place and facts. Collected, never raised."""

    code: str
    span: Span | None = None
    facts: dict[str, object] = dataclasses.field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """How bad it is, from the catalogue."""
        return Severity(entry(self.code)["severity"])

    @property
    def message(self) -> str:
        """The catalogue's sentence with this finding's facts in it."""
        return render(self.code, self.facts)[0]

    @property
    def help(self) -> str:
        """What to do about it."""
        return render(self.code, self.facts)[1]

    def to_json(self) -> dict[str, object]:
        """The public JSON object: what is wrong, what to do about it, and where."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "message": self.message,
            "help": self.help,
            "file": self.span.file if self.span else None,
            "line": self.span.line if self.span else None,
            "column": self.span.column if self.span else None,
        }

    def __str__(self) -> str:
        where = f"{self.span}: " if self.span else ""
        return f"{where}{self.severity} {self.code}: {self.message}"


@functools.cache
def catalogue() -> dict[str, Entry]:
    """All entries of `mesh/catalogue/*.yaml` by code. Loaded on first use: YAML is slow to import."""
    import yaml  # noqa: PLC0415  only those who print a message pay for it

    entries: dict[str, Entry] = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    folder = importlib.resources.files("mesh") / "catalogue"
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if file.name.endswith(".yaml"):
            for code, found in yaml.load(file.read_text("utf-8"), Loader=loader).items():  # noqa: S506  safe loaders only
                if code in entries:
                    raise ValueError(f"{code} stands twice in the catalogue")
                entries[code] = found
    return entries


def entry(code: str) -> Entry:
    """The catalogue entry of a code.

    Raises KeyError for a code that is not listed: that is a bug, and a test finds it.
    """
    return catalogue()[code]


class _Facts(dict[str, object]):
    """Facts for a template; a missing one shows as `?name`, so that reporting an error never fails."""

    def __missing__(self, key: str) -> str:
        return f"?{key}"


def render(code: str, facts: dict[str, object]) -> tuple[str, str]:
    """The message and the help of a code with its facts filled in."""
    found = entry(code)
    formatter = string.Formatter()
    values = _Facts(facts)
    return (
        sayable(formatter.vformat(found["message"], (), values)),
        sayable(formatter.vformat(found["help"], (), values)),
    )


def sayable(text: str) -> str:
    """A text as UTF-8 and a terminal can carry it.

    JSON lets anybody send half of a surrogate pair, and no answer could repeat it; a control character, or a mark that
    reorders text, would let a name or a header speak to the terminal that shows it.
    """
    if text.isprintable():
        return text
    return _UNSAYABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shortened(text: str, most: int = 120) -> str:
    """A text as a message repeats it: a finding about a megabyte is no megabyte."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


@contextlib.contextmanager
def first_problem() -> Iterator[None]:
    """Let the first of the Problems of tasks that failed together through in place of their group.

    A group that holds anything else passes as it is: that is a bug, and no part of it may be lost. What is
    raised within `except*` would come out in a group again before Python 3.11.4.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        problems, others = group.split(Problem)
        if problems is None or others is not None:
            raise
        found: BaseException = problems
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None


def bug_report(err: BaseException) -> tuple[str, str]:
    """The number under which a bug is reported (LM0002), twelve hex digits, and its traceback."""
    import hashlib  # noqa: PLC0415  only when something went wrong
    import traceback  # noqa: PLC0415

    trace = "".join(traceback.format_exception(err))
    return hashlib.sha256(trace.encode()).hexdigest()[:12], trace
