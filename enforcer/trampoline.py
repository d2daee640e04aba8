"""The last step before a workload: a process of its own that gives up what it must and executes an open file.

`python -I -S trampoline.py FD`: the plan is read from FD as JSON. A separate program, because the agent has threads:
between its fork and an exec no Python may run. On failure the reason goes back through the same socket, which the
exec closes on success. This file imports nothing of ours.
"""

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the workload.

    1. Read the plan.
    2. Give up groups, group and user, in that order.
    3. End with the agent: the wish is dropped by a change of user, so it comes after it.
    4. Be sure that the agent still lives.
    5. Execute the open file: by its descriptor, so that nobody can put another one in its path.
    """
    channel = int(sys.argv[1])
    # (1)
    with os.fdopen(os.dup(channel), "rb") as file:
        plan = json.loads(file.readline())
    try:
        # (2)
        if plan["groups"] is not None:
            os.setgroups(plan["groups"])
            os.setresgid(plan["gid"], plan["gid"], plan["gid"])
            os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        # (3)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # (4)
        if os.getppid() != plan["parent"]:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(plan["cwd"])
        # (5)
        os.set_inheritable(channel, False)
        os.execve(f"/proc/self/fd/{plan['executable']}", plan["argv"], plan["env"])  # noqa: S606  what we are here for
    except OSError as err:
        os.write(channel, json.dumps({"errno": err.errno, "reason": err.strerror}).encode() + b"\n")
        os._exit(127)


main()
