"""The files of a policy tree: found in one order, bounded, and none of them skipped in silence.

A policy that a reviewer sees in the directory and that is not read is worse than an error: a link to nowhere, a
directory that cannot be entered and a suffix in capitals are findings or files like others. Only hidden entries are no
part of a tree. This is a rim: it reads, and gives nothing a meaning.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

from mesh.problems import Diagnostic, Span
from mesh.yamlio import MAX_FILE_BYTES

YAML_SUFFIXES = frozenset({".yaml", ".yml"})
MODULE_SUFFIX = ".rego"
MAX_FILES = 20_000
MAX_TREE_BYTES = 64 << 20
"""As much as a snapshot may have (`policyengine.snapshot`)."""
_MAX_DEPTH = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TreeFile:
    """One file that was read: where it is, its path inside the tree, whether it is a module, and its text."""

    path: pathlib.Path
    inside: str
    is_module: bool
    text: str


@dataclasses.dataclass(slots=True, eq=False)
class _Budget:
    """What may still be read."""

    files: int = MAX_FILES
    size: int = MAX_TREE_BYTES


def read_files(root: pathlib.Path) -> tuple[list[TreeFile], list[Diagnostic]]:
    """Read the YAML files and modules of a tree, in the order of their paths, or the one file that the root is.

    1. Every entry that is not hidden is looked at; what cannot be is a finding (LM2022).
    2. A file is regular, UTF-8 and of at most `MAX_FILE_BYTES` (LM5100); no more than that is read of it.
    3. A tree has at most `MAX_FILES` files and `MAX_TREE_BYTES` (LM2024); beyond them nothing is read.

    Nothing is raised.
    """
    found: list[Diagnostic] = []
    files: list[TreeFile] = []
    budget = _Budget()
    # (1)
    paths = _walk(root, found) if root.is_dir() else iter((root,))
    for path in paths:
        # (3)
        budget.files -= 1
        if budget.files < 0 or budget.size < 0:
            what = f"{MAX_FILES} files" if budget.files < 0 else f"{MAX_TREE_BYTES} bytes"
            found.append(Diagnostic(code="LM2024", span=_top(path), facts={"path": str(root), "limit": what}))
            break
        # (2)
        text = _read(path, found, budget)
        if text is not None:
            is_module = root != path and path.suffix.lower() == MODULE_SUFFIX
            inside = path.relative_to(root).as_posix() if root != path else path.name
            files.append(TreeFile(path=path, inside=inside, is_module=is_module, text=text))
    return files, found


def _walk(folder: pathlib.Path, found: list[Diagnostic], depth: int = 0) -> Iterator[pathlib.Path]:
    """The files of a directory and those below it that have a known suffix, by name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as err:
        found.append(_unreadable(folder, err.strerror or "it cannot be listed"))
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth == _MAX_DEPTH:
                found.append(_unreadable(path, f"a tree has at most {_MAX_DEPTH} levels of directories"))
            else:
                yield from _walk(path, found, depth + 1)
        elif entry.is_symlink() and path.is_dir():
            found.append(_unreadable(path, "a link to a directory is not followed"))
        elif path.suffix.lower() in YAML_SUFFIXES | {MODULE_SUFFIX}:
            yield path


def _read(path: pathlib.Path, found: list[Diagnostic], budget: _Budget) -> str | None:
    """The text of one file, or a finding and None."""
    try:
        # without waiting for the other end of a pipe that has a policy's name
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                found.append(_unreadable(path, "it is no regular file"))
                return None
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as err:
        found.append(_unreadable(path, getattr(err, "strerror", None) or "it cannot be read"))
        return None
    budget.size -= len(data)
    if len(data) > MAX_FILE_BYTES:
        found.append(Diagnostic(code="LM5100", span=_top(path), facts={"limit": MAX_FILE_BYTES}))
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        column = err.start - (data.rfind(b"\n", 0, err.start) + 1) + 1
        span = Span(file=str(path), line=line, column=column)
        found.append(Diagnostic(code="LM2022", span=span, facts={"file": str(path), "reason": "it is not UTF-8"}))
        return None


def _unreadable(path: pathlib.Path, reason: str) -> Diagnostic:
    return Diagnostic(code="LM2022", span=_top(path), facts={"file": str(path), "reason": reason})


def _top(path: pathlib.Path) -> Span:
    return Span(file=str(path), line=1, column=1)
