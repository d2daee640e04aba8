"""Finds every process that holds a socket by asking the kernel once: a program that it runs over all open files.

The same answer as `enforcer.holders` gives from /proc, without a system call for each descriptor of the host: an eBPF
iterator (`bpf_iter_task_file`, Linux 5.8) is run over every task's descriptors and writes down whose inode is the one
that is looked for. A thread with a descriptor table of its own is seen too, which /proc/PID/fd does not show.

Taken with CAP_BPF and CAP_PERFMON (root), from the host's first pid namespace, on a kernel that describes its types.
"""

from __future__ import annotations

import os
import struct
import threading

from enforcer import bpf, btf
from mesh.problems import Unavailable

_TRACING, _ITERATOR = 26, 28
_WRITE = 127
_SOCKET = 0xC000
_FORMAT_BITS = 0xF000
# struct bpf_iter__task_file and struct bpf_iter_meta: all members are 8 bytes apart
_META_AT, _TASK_AT, _FILE_AT, _SEQUENCE_AT = 0, 8, 24, 0
_FIELDS = ("task_struct.tgid", "file.f_inode", "inode.i_ino", "inode.i_mode")
_READ_BYTES = 65536


class OpenSockets:
    """The open sockets of this host. Close it, or end, to take the program away."""

    def __init__(self) -> None:
        """Load the program.

        Raises Unavailable LM3407 with the step that the kernel refused.
        """
        self._lock = threading.Lock()
        self._handles: list[int] = []
        try:
            found = btf.find(btf.VMLINUX.read_bytes(), ("bpf_iter_task_file",), _FIELDS)
            self._wanted = bpf.make_map(bpf.ARRAY, key=4, value=8, entries=1)
            self._handles.append(self._wanted)
            code = _looking(self._wanted, *(found.fields[name] for name in _FIELDS))
            target = found.functions["bpf_iter_task_file"]
            program = bpf.load(_TRACING, _ITERATOR, code, target=target)
            self._handles.append(program)
            self._link = bpf.link(program, 0, _ITERATOR)
            self._handles.append(self._link)
            # the first run may still be refused
            self.holders(0)
        except OSError as err:
            self.close()
            raise Unavailable("LM3407", reason=f"{btf.VMLINUX}: {err.strerror} (errno {err.errno})") from err
        except Unavailable:
            self.close()
            raise

    def holders(self, inode: int) -> frozenset[int]:
        """The pids of all processes that hold a socket's inode. Raises Unavailable LM3407."""
        found = b""
        with self._lock:
            bpf.update(self._wanted, struct.pack("=I", 0), struct.pack("=Q", inode))
            handle = bpf.iterate(self._link)
            try:
                while data := os.read(handle, _READ_BYTES):
                    found += data
            except OSError as err:
                raise Unavailable("LM3407", reason=f"open files: {err.strerror} (errno {err.errno})") from err
            finally:
                os.close(handle)
        return frozenset(pid for (pid,) in struct.iter_unpack("=I", found))

    def close(self) -> None:
        """Take the program away."""
        bpf.close(self._handles)
        self._handles = []


def _looking(wanted: int, tgid: int, f_inode: int, i_ino: int, i_mode: int) -> bytes:
    """The program, called with a struct bpf_iter__task_file for each open file; it returns 0, which means go on.

    1. A file and a task: both are missing in the last call.
    2. The inode is that of a socket and the one that is looked for.
    3. The process's number, at -8 of the stack, is written down.
    """
    # (3)
    rest = b"".join(
        (
            bpf.line(bpf.LOAD_32, 1, 8, tgid),
            bpf.line(bpf.STORE_32, 10, 1, -8),
            bpf.line(bpf.LOAD_64, 1, 6, _META_AT),
            bpf.line(bpf.LOAD_64, 1, 1, _SEQUENCE_AT),
            bpf.line(bpf.MOVE, 2, 10),
            bpf.line(bpf.ADD_VALUE, 2, value=-8),
            bpf.line(bpf.MOVE_VALUE, 3, value=4),
            bpf.line(bpf.CALL, value=_WRITE),
        )
    )
    # (2)
    mode = bpf.line(bpf.LOAD_16, 1, 7, i_mode) + bpf.line(bpf.AND_VALUE, 1, value=_FORMAT_BITS)
    rest = mode + bpf.unless(bpf.JUMP_NOT_VALUE, 1, rest, value=_SOCKET)
    number = bpf.line(bpf.LOAD_64, 9, 7, i_ino) + bpf.load_value(1, wanted) + bpf.line(bpf.LOAD_64, 1, 1)
    rest = number + bpf.unless(bpf.JUMP_NOT, 9, rest, source=1)
    rest = bpf.line(bpf.LOAD_64, 7, 7, f_inode) + bpf.unless(bpf.JUMP_VALUE, 7, rest)
    # (1)
    rest = bpf.line(bpf.LOAD_64, 8, 6, _TASK_AT) + bpf.unless(bpf.JUMP_VALUE, 8, rest)
    rest = bpf.line(bpf.LOAD_64, 7, 6, _FILE_AT) + bpf.unless(bpf.JUMP_VALUE, 7, rest)
    return bpf.line(bpf.MOVE, 6, 1) + rest + bpf.line(bpf.MOVE_VALUE, 0) + bpf.line(bpf.EXIT)
