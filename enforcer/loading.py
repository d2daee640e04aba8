"""Environment variables that have a program run code of somebody's choice: loader, interpreters, plug-in paths.

What was hashed at a launch is the executable and the script. A variable of these has the same file run other code with
the same digest, so a launched program gets none of them unless whoever launches it names it. The table is of what
glibc, musl and the common interpreters read at their start; a program may have variables of its own beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

# the dynamic loader's (ld.so(8)), all of them: the list differs by version; functions that bash imports
_PREFIXES = ("LD_", "DYLD_", "BASH_FUNC_")
_NAMES = frozenset(
    {"GCONV_PATH", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"}
    | {"PYTHONBREAKPOINT", "PYTHONEXECUTABLE", "PYTHONHOME", "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONWARNINGS"}
    | {"NODE_OPTIONS", "NODE_PATH", "RUBYLIB", "RUBYOPT", "PERL5DB", "PERL5LIB", "PERL5OPT", "PERLLIB"}
    | {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "DOTNET_STARTUP_HOOKS"}
    | {"BASH_ENV", "ENV", "LUA_CPATH", "LUA_INIT", "LUA_PATH", "PHPRC", "PHP_INI_SCAN_DIR"}
)


def loads_code(name: str) -> bool:
    """Whether a variable of this name may have a program load code."""
    return name in _NAMES or name.startswith(_PREFIXES)


def loading(names: Iterable[str], kept: Collection[str] = ()) -> tuple[str, ...]:
    """The names, sorted, that load code and that nobody asked to keep."""
    return tuple(sorted(name for name in names if loads_code(name) and name not in kept))


def without(environment: Mapping[str, str], kept: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """An environment without what loads code, but for what is kept; and the names that were left out."""
    left_out = loading(environment, kept)
    return {name: value for name, value in environment.items() if name not in left_out}, left_out
