"""What a command line really executes: the executable, the interpreter behind a `#!`, the script an interpreter reads.

An interpreter is only as good as its script, so the script is opened here and executed as that open file; options
that this module does not know end the search, and the workload then has no script as a fact. Nothing is run here.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Mapping, Sequence

from mesh.interpreters import is_interpreter_name
from mesh.problems import Invalid

# options of Python that take the next word as their value
_PYTHON_VALUES = frozenset({"-W", "-X", "--check-hash-based-pycs"})
# programs whose work is to execute another one: what they execute is not what was hashed, so it would have no identity
_WRAPPERS = frozenset(
    {"chroot", "chrt", "cpulimit", "dumb-init", "env", "faketime", "firejail", "flock", "gdb", "ionice", "ltrace"}
    | {"nice", "nohup", "nsenter", "numactl", "prlimit", "runuser", "s6-setuidgid", "setarch", "setpriv", "setsid"}
    | {"softlimit", "stdbuf", "strace", "su", "sudo", "systemd-run", "taskset", "time", "timeout", "tini", "unshare"}
    | {"valgrind", "xargs"}
)
_MAX_SHEBANG_BYTES = 256
_MAX_SHEBANGS = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute. ``script`` is the index in ``argv`` of the script an interpreter reads, None without one."""

    executable: str
    argv: tuple[str, ...]
    script: int | None


def resolve(argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> Command:
    """Resolve a command line as a shell's `execvp` would, and through `#!` lines.

    1. The program is found by its path, or along PATH for a plain name; it is none that executes another.
    2. A file that begins with `#!` is the script of the interpreter named there, at most twice over.
    3. For an interpreter, the script is the first word that is no option.

    Raises Invalid LM3430 when there is no such program, LM3431 for a `#!` line that cannot be followed, LM3432 for a
    script that must not be executed, LM3433 for one that cannot be read, LM3435 for a program that executes another.
    """
    if not argv:
        raise Invalid("LM3430", program="")
    # (1)
    path = _find(argv[0], cwd, env)
    words = [argv[0], *argv[1:]]
    if os.path.basename(path) in _WRAPPERS:
        raise Invalid("LM3435", wrapper=os.path.basename(path))
    # (2)
    for _ in range(_MAX_SHEBANGS):
        shebang = _shebang(path)
        if shebang is None:
            break
        if not os.access(path, os.X_OK):
            raise Invalid("LM3432", program=path, reason=os.strerror(errno.EACCES))
        words = [*shebang, path, *words[1:]]
        path = _find(words[0], cwd, env)
        if os.path.basename(path) == "env":
            words = words[1:]
            if not words or words[0].startswith("-") or "=" in words[0]:
                raise Invalid("LM3431", path=path)
            path = _find(words[0], cwd, env)
    else:
        if _shebang(path) is not None:
            raise Invalid("LM3431", path=path)
    # (3)
    script = _script(path, words)
    return Command(executable=path, argv=tuple(words), script=script)


def is_interpreter(path: str) -> bool:
    """Whether an executable runs what other files say, going by its resolved name."""
    return is_interpreter_name(os.path.basename(os.path.realpath(path)))


def _find(name: str, cwd: str, env: Mapping[str, str]) -> str:
    if "/" in name:
        candidates = [os.path.join(cwd, name)]
    else:
        candidates = [
            os.path.join(cwd, folder, name) for folder in env.get("PATH", "/usr/bin:/bin").split(":") if folder
        ]
    there = [candidate for candidate in candidates if os.path.isfile(candidate)]
    # as execvp does: a file that must not be executed hides no later one, and is refused when there is none
    for candidate in [*(path for path in there if os.access(path, os.X_OK)), *there]:
        return os.path.normpath(candidate) if ".." not in candidate else os.path.realpath(candidate)
    raise Invalid("LM3430", program=name)


def _shebang(path: str) -> list[str] | None:
    try:
        with open(path, "rb") as file:
            head = file.read(_MAX_SHEBANG_BYTES)
    except OSError as err:
        raise Invalid("LM3433", path=path, reason=err.strerror or str(err)) from err
    if not head.startswith(b"#!"):
        return None
    line, end, _ = head[2:].partition(b"\n")
    words = line.decode("utf-8", "surrogateescape").strip().split(None, 1)
    if not end or not words:
        raise Invalid("LM3431", path=path)
    return words


def _script(path: str, words: Sequence[str]) -> int | None:
    """The index of the script among the words, None when there is none or the options are not understood."""
    if not is_interpreter(path):
        return None
    is_python = os.path.basename(os.path.realpath(path)).startswith(("python", "pypy"))
    index = 1
    while index < len(words):
        word = words[index]
        if not word.startswith("-"):
            return index
        if not is_python or word in {"-", "--", "-c", "-m"} or word.startswith(("-c", "-m")):
            return None
        index += 2 if word in _PYTHON_VALUES else 1
    return None
