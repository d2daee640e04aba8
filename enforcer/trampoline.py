"""The last step before a workload: a process of its own that gives up what it must and executes an open file.

`python -I -S trampoline.py FD`: the plan is read from FD as JSON. A separate program, because the agent has threads:
between its fork and an exec no Python may run. On failure the reason goes back through the same socket, which the
exec closes on success. This file imports nothing of ours.
"""

import ctypes
import errno
import json
import os
import signal
import struct
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_MM = 35
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
# by machine: the kernel's names of the system call tables that a process there can use, and prctl's number in each
_PRCTL = {
    "x86_64": ((0xC000003E, 157), (0x40000003, 172)),
    "aarch64": ((0xC00000B7, 167), (0x40000028, 172)),
    "riscv64": ((0xC00000F3, 167),),
    "loongarch64": ((0xC0000102, 167),),
    "ppc64le": ((0xC0000015, 171),),
    "i686": ((0x40000003, 172),),
    "armv7l": ((0x40000028, 172),),
}
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _TABLE_AT, _OPTION_AT = 0, 4, 16
_NOT_X32 = 0xBFFFFFFF
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


def main() -> None:
    """Become the workload.

    1. Read the plan.
    2. Give up rewriting one's own layout, for good and for all descendants: it is what attests them (ADR 3).
    3. Give up groups, group and user, in that order.
    4. End with the agent: the wish is dropped by a change of user, so it comes after it.
    5. Be sure that the agent still lives.
    6. Execute the open file: by its descriptor, so that nobody can put another one in its path.
    """
    channel = int(sys.argv[1])
    # (1)
    with os.fdopen(os.dup(channel), "rb") as file:
        plan = json.loads(file.readline())
    try:
        # (2)
        keep_layout()
        # (3)
        if plan["groups"] is not None:
            os.setgroups(plan["groups"])
            os.setresgid(plan["gid"], plan["gid"], plan["gid"])
            os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        # (4)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # (5)
        if os.getppid() != plan["parent"]:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(plan["cwd"])
        # (6)
        os.set_inheritable(channel, False)
        os.set_inheritable(plan["executable"], False)
        os.execve(f"/proc/self/fd/{plan['executable']}", plan["argv"], plan["env"])  # noqa: S606  what we are here for
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        os.write(channel, json.dumps({"reason": reason}).encode() + b"\n")
        os._exit(127)


def keep_layout() -> None:
    """Have the kernel refuse prctl(PR_SET_MM) to this process and its descendants, whatever they execute.

    With PR_SET_MM_MAP any process may claim another layout for itself, without a privilege. The filter takes
    CAP_SYS_ADMIN, or the promise never to gain privileges by executing something; the promise is made only then.
    Raises OSError when the kernel does not take it, and then nothing is launched.
    """
    tables = _PRCTL.get(os.uname().machine)
    if tables is None:
        raise OSError(errno.ENOSYS, f"layouts cannot be kept on {os.uname().machine}")
    code = layout_filter(tables)
    lines = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    for is_last in (False, True):
        if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0:
            return
        number = ctypes.get_errno()
        if is_last or number != errno.EACCES or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(number, f"no seccomp filter: {os.strerror(number)}")


def layout_filter(tables: tuple[tuple[int, int], ...]) -> bytes:
    """The filter as the kernel reads it (seccomp(2)): jumps count the instructions that are passed over.

    In each table prctl with the option PR_SET_MM is refused and everything else is allowed; a call by a table that
    is not known here ends the process.
    """
    lines = []
    for table, prctl in tables:
        lines += [
            (_LOAD, 0, 0, _TABLE_AT),
            (_EQUAL, 0, 7, table),
            (_LOAD, 0, 0, _NUMBER_AT),
            (_AND, 0, 0, _NOT_X32),
            (_EQUAL, 0, 2, prctl),
            # the low half: the kernel reads the option as an int
            (_LOAD, 0, 0, _OPTION_AT),
            (_EQUAL, 1, 0, _PR_SET_MM),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        ]
    lines.append((_RETURN, 0, 0, _KILL))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


if __name__ == "__main__":
    main()
