"""What the kernel says of a process: who it is, which executable, which image. argv and names are never asked.

A pid means nothing without its start time, so every read is bracketed by two looks at it. The *layout* of a process
(where the kernel put its code, data, heap and stack) is chosen anew by every exec and inherited by every fork: two
processes of one layout run one image that was executed once (docs/adr/0003-image-layout.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import grp
import hashlib
import os
import pathlib
import pwd
import re
import stat as st
import time
from collections import OrderedDict

from enforcer.cgroup import MAX_BYTES, Cgroup, Depths, parse_cgroup, read_depths
from enforcer.mappings import foreign_code
from mesh.interpreters import is_interpreter_name
from mesh.problems import Invalid, NotFound

MAX_EXECUTABLE_BYTES = 1 << 30
_TRACER = re.compile(rb"^TracerPid:\t(\d+)$", re.MULTILINE)
# the line comes before those whose length a process can choose
_STATUS_BYTES = 4096
_DELETED = " (deleted)"
_HASH_CACHE_SIZE = 256
# a file changed so lately may change again within one tick of its times, which then look the same
_SETTLED_NS = 2_000_000_000
_ADDR_NO_RANDOMIZE = 0x0040000
# fields of /proc/PID/stat, numbered from 1 as in proc(5); the first two are cut off before splitting
_PPID, _SESSION, _START = 4, 6, 22
_LAYOUT = (26, 27, 28, 45, 46, 47)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The parts of /proc/PID/stat that are used. ``start`` is in clock ticks since boot."""

    ppid: int
    session: int
    start: int
    state: str
    layout: tuple[int, ...]

    @property
    def has_ended(self) -> bool:
        """Whether it only stands in the table, for as long as its parent does not ask how it ended."""
        return self.state in "ZX"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """An executable file: its path as the kernel resolved it, what and whose it is, and the hash of its content."""

    path: str
    device: int
    inode: int
    owner: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process at one moment. Ids are the effective ones."""

    pid: int
    start: int
    session: int
    layout: tuple[int, ...]
    uid: int
    gid: int
    groups: tuple[int, ...]
    executable: Executable
    cgroup: Cgroup
    # a file that it executes and that somebody else could have put there; empty without one
    foreign: str = ""

    def facts(self, *, is_launched: bool = False) -> tuple[tuple[str, str], ...]:
        """What identity rules may match, as selector and value.

        The digest of an interpreter says nothing of what it runs, nor does that of a program which executes somebody
        else's code beside its own: it is a fact then only of one that the agent launched.
        """
        name = os.path.basename(self.executable.path)
        found = [
            ("unix:uid", str(self.uid)),
            ("unix:gid", str(self.gid)),
            ("unix:path", self.executable.path),
            ("unix:basename", name),
        ]
        if is_launched or not (is_interpreter_name(name) or self.foreign):
            found.append(("unix:sha256", self.executable.sha256))
        with contextlib.suppress(KeyError):
            found.append(("unix:user", pwd.getpwuid(self.uid).pw_name))
        with contextlib.suppress(KeyError):
            found.append(("unix:group", grp.getgrgid(self.gid).gr_name))
        for gid in sorted(set(self.groups)):
            found.append(("unix:supplementary-gid", str(gid)))
            with contextlib.suppress(KeyError):
                found.append(("unix:supplementary-group", grp.getgrgid(gid).gr_name))
        return (*found, *self.cgroup.facts())


def read_stat(pid: int) -> Stat:
    """Read /proc/PID/stat.

    Raises NotFound LM3401 when there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    # the name may hold spaces and parentheses: everything after the last one is numbers
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(
        ppid=int(fields[_PPID - 3]),
        session=int(fields[_SESSION - 3]),
        start=int(fields[_START - 3]),
        state=fields[0],
        layout=tuple(int(fields[number - 3]) for number in _LAYOUT),
    )


def read_process(pid: int) -> Process:
    """Read what the kernel says of a process.

    1. The start time, before.
    2. Ids and groups, session, layout and cgroup.
    3. The executable: opened through the kernel's own link, so that it is the file that runs whatever its path says
       now; a deleted one, a memory file and a path that leads to another file are refused; its content is hashed.
    4. Whose code it executes beside that.
    5. Nobody traces it: who does has it do anything.
    6. The start time again: if it changed, another process has the pid.

    Raises NotFound LM3401 when it is gone, Invalid LM3402 or LM3403 for an executable that is refused, and LM3427 when
    it is traced.
    """
    # (1)
    before = read_stat(pid)
    # (2)
    uid, gid, groups = _ids(pid)
    cgroup = read_cgroup(pid)
    # (3)
    executable = _executable(pid)
    # (4)
    foreign = foreign_code(pid, executable.owner)
    # (5)
    tracer = tracer_of(pid)
    if tracer:
        raise Invalid("LM3427", pid=pid, program=executable.path, tracer=tracer)
    # (6)
    after = read_stat(pid)
    if after.start != before.start or after.layout != before.layout:
        raise NotFound("LM3401", pid=pid)
    return Process(
        pid=pid,
        start=before.start,
        session=before.session,
        layout=before.layout,
        uid=uid,
        gid=gid,
        groups=groups,
        executable=executable,
        cgroup=cgroup,
        foreign=foreign,
    )


def runs(pid: int, executable: Executable) -> bool:
    """Whether a process runs an executable that was read before, going by the file alone."""
    try:
        found = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (executable.device, executable.inode)


def tracer_of(pid: int) -> int:
    """The pid of whoever traces a process now (ptrace(2)), 0 for nobody. Raises NotFound LM3401."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = _TRACER.search(file.read(_STATUS_BYTES))
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    return int(found[1]) if found is not None else 0


def read_environment(pid: int) -> tuple[str, ...]:
    """The names of the variables that a process was executed with; it may have written over them since.

    Raises NotFound LM3401 when it is gone, Invalid LM3403 when it cannot be read.
    """
    try:
        data = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError as err:
        # what ended has no memory, which newer kernels let nobody but root look for
        if read_stat(pid).has_ended:
            raise NotFound("LM3401", pid=pid) from err
        raise Invalid("LM3403", pid=pid, reason="its environment may not be read") from err
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    return tuple(entry.partition(b"=")[0].decode("utf-8", "replace") for entry in data.split(b"\0") if entry)


def is_randomised(pid: int) -> bool:
    """Whether the kernel chose the process's layout at random, without which two images may share one."""
    try:
        with open("/proc/sys/kernel/randomize_va_space", encoding="ascii") as file:
            if file.read().strip() == "0":
                return False
        with open(f"/proc/{pid}/personality", encoding="ascii") as file:
            return not int(file.read(), 16) & _ADDR_NO_RANDOMIZE
    except (OSError, ValueError):
        return False


def _ids(pid: int) -> tuple[int, int, tuple[int, ...]]:
    uid = gid = -1
    groups: tuple[int, ...] = ()
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name == "Uid":
                    uid = int(rest.split()[1])
                elif name == "Gid":
                    gid = int(rest.split()[1])
                elif name == "Groups":
                    groups = tuple(int(item) for item in rest.split())
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err
    return uid, gid, groups


def read_cgroup(pid: int) -> Cgroup:
    """Read what a process's control group says of it.

    Raises NotFound LM3401 when there is no such process.
    """
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return parse_cgroup(file.read(MAX_BYTES), _depths())
    except OSError as err:
        raise NotFound("LM3401", pid=pid) from err


@functools.cache
def _depths() -> Depths | None:
    """Our own view, which stays what it is."""
    return read_depths()


def _executable(pid: int) -> Executable:
    """Step 3 of `read_process`."""
    link = f"/proc/{pid}/exe"
    try:
        path = os.readlink(link)
        handle = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise NotFound("LM3401", pid=pid) from err
    except OSError as err:
        raise Invalid("LM3403", pid=pid, reason=err.strerror or str(err)) from err
    try:
        found = os.fstat(handle)
        if path.endswith(_DELETED) or path.startswith("/memfd:") or found.st_nlink == 0:
            raise Invalid("LM3402", pid=pid, path=path, reason="it was deleted or never had a name")
        if not st.S_ISREG(found.st_mode):
            raise Invalid("LM3402", pid=pid, path=path, reason="it is no regular file")
        named = _stat_path(pid, path)
        if named is None or (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
            raise Invalid("LM3402", pid=pid, path=path, reason="its path leads to another file now")
        return Executable(
            path=path,
            device=found.st_dev,
            inode=found.st_ino,
            owner=found.st_uid,
            sha256=_hash_running(handle),
        )
    finally:
        os.close(handle)


def _stat_path(pid: int, path: str) -> os.stat_result | None:
    """What a path is for the process: through its own root, which may be a container's."""
    for candidate in (f"/proc/{pid}/root{path}", path):
        with contextlib.suppress(OSError):
            return os.lstat(candidate)
    return None


_hashes: OrderedDict[tuple[int, int, int, int, int], str] = OrderedDict()


def _hash_running(handle: int) -> str:
    """The hash of a running executable, remembered by device, inode, size and both times.

    Only of what runs: nobody can write to it meanwhile, through a mapping that is there already neither, which would
    not change its times. Whoever writes to it later changes the change time, which nobody but the kernel sets.
    """
    found = os.fstat(handle)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    known = _hashes.get(key)
    if known is not None:
        _hashes.move_to_end(key)
        return known
    digest = hash_file(handle)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS:
        _hashes[key] = digest
        if len(_hashes) > _HASH_CACHE_SIZE:
            _hashes.popitem(last=False)
    return digest


def hash_file(handle: int) -> str:
    """The SHA-256 of an open file, hexadecimal, read anew.

    Raises Invalid LM3403 for a file of more than 1 GiB.
    """
    if os.fstat(handle).st_size > MAX_EXECUTABLE_BYTES:
        raise Invalid("LM3403", pid=0, reason="it is larger than 1 GiB")
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(handle, 1 << 20, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
