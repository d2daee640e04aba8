"""Checks of this host and installation: they ask the kernel and the file system, never the network."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import socket
import stat
import sys
from collections.abc import Callable, Mapping

from enforcer import control, guard, redirect
from enforcer.execwatch import ExecWatch
from enforcer.holders import is_complete
from enforcer.opensockets import OpenSockets
from enforcer.process import read_process
from enforcer.sight import Report, open_sockets, open_stamps
from enforcer.sockdiag import SockDiag
from enforcer.stamp import Stamps
from limen import attacks
from limen.checks.result import Result, failed, passed, warned
from mesh.problems import Problem, Unavailable
from mesh.settings import MAX_SOCKET_PATH_BYTES

_ROOMS = ("mesh", "ca", "policyengine", "audit", "enforcer", "learner")
_SO_PEERPIDFD = 77
_BPF_HINT = "run the agent as root, on a host with a unified control group hierarchy and the kernel's types (BTF)"


def installation() -> list[Result]:
    """The interpreter, and that the rooms are ours: another package on PyPI installs a `policyengine` too."""
    group = "installation"
    version = ".".join(str(part) for part in sys.version_info[:3])
    found = [passed(group, f"Python {version}")]
    here = pathlib.Path(__file__).parent.parent.parent
    strangers = []
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        origin = pathlib.Path(spec.origin) if spec is not None and spec.origin else None
        if origin is None or not origin.is_relative_to(here):
            strangers.append(room)
    if strangers:
        hint = "install Limen into an environment of its own"
        text = f"another package has taken the name {', '.join(strangers)}"
        found.append(failed(group, text, "LM5250", hint))
    else:
        found.append(passed(group, "every package is Limen's own"))
    return found


def state(folder: pathlib.Path) -> list[Result]:
    """The state directory: modes, wrapping key, and room for socket paths."""
    group = "state"
    size = len(str(folder / "control.sock").encode())
    if size > MAX_SOCKET_PATH_BYTES:
        hint = "choose a shorter directory with `--state`"
        return [failed(group, f"sockets in `{folder}` would have paths of {size} bytes", "LM5001", hint)]
    if not folder.is_dir():
        return [passed(group, f"`{folder}` is not there yet; `limen up` makes it")]
    found = []
    for name in ("ca", "server", "agent", "audit", "spool", "run"):
        path = folder / name
        if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            found.append(failed(group, f"others may look into `{path}`", "LM5251", f"run `chmod 700 {path}`"))
    for name in ("ca", "agent"):
        if (folder / name / "wrap.key").exists():
            text = f"the wrapping key lies beside the keys it wraps: `{folder / name / 'wrap.key'}`"
            found.append(warned(group, text, "LM1209", "keep it elsewhere and name it with `LIMEN_KEY_FILE`"))
    return found or [passed(group, f"`{folder}` is closed to others")]


def kernel() -> list[Result]:
    """What the kernel lets the agent find out about processes and sockets."""
    group = "attestation"
    return [
        _sock_diag(group),
        _peer_pidfd(group),
        _stamps(group),
        _sockets(group),
        _execs(group),
        _layout(group),
        _randomisation(group),
        _holders(group),
        _redirect(group),
    ]


def _sock_diag(group: str) -> Result:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        diag = SockDiag()
        try:
            diag.find(client.getsockname(), server.getsockname())
        except Problem as problem:
            hint = "load the kernel module inet_diag (tcp_diag)"
            return failed(group, f"whose socket it is cannot be asked: {problem.message}", "LM3411", hint)
        finally:
            diag.close()
    return passed(group, "the kernel says whose socket it is (sock_diag)")


def _peer_pidfd(group: str) -> Result:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return passed(group, "callers of agent.sock: pidfd_open, start time read twice (the kernel is before 6.5)")
    return passed(group, "callers of agent.sock are held by a pidfd of the kernel's (SO_PEERPIDFD)")


def _stamps(group: str) -> Result:
    known = "the kernel notes who begins a connection (eBPF, cgroup/connect4 and connect6)"
    return _by_bpf(group, open_stamps, known, "who begins a connection is not noted by the kernel")


def _sockets(group: str) -> Result:
    known = "the kernel says who holds a connection (eBPF, task_file)"
    return _by_bpf(group, open_sockets, known, "who holds a connection is found by a scan of /proc")


def _by_bpf(group: str, open_: Callable[[Report], Stamps | OpenSockets | None], known: str, unknown: str) -> Result:
    reasons: list[str] = []
    found = open_(reasons.append)
    if found is None:
        return warned(group, f"{unknown}: {reasons[0]}", "LM3407", _BPF_HINT)
    found.close()
    return passed(group, known)


def _execs(group: str) -> Result:
    try:
        ExecWatch().close()
    except Unavailable as problem:
        text = (
            "callers of agent.sock that keep their connection through an exec are not always noticed: "
            f"{problem.facts['reason']}"
        )
        return warned(group, text, problem.code, problem.help)
    return passed(group, "every exec on this host is heard of (CN_PROC)")


def _layout(group: str) -> Result:
    try:
        process = read_process(os.getpid())
    except Problem as problem:
        return failed(group, f"this process cannot be read: {problem.message}", problem.code, problem.help)
    if not any(process.layout):
        hint = "run the agent as root, or as the workloads' own user"
        return failed(group, "the kernel hides memory layouts: a fork cannot be told from an exec", "LM3424", hint)
    return passed(group, "a fork is told from an exec by the memory's layout")


def _randomisation(group: str) -> Result:
    try:
        value = pathlib.Path("/proc/sys/kernel/randomize_va_space").read_text("ascii").strip()
    except OSError:
        value = "unknown"
    if value != "2":
        hint = "set `kernel.randomize_va_space = 2`"
        return failed(group, f"address space randomisation is {value}, so layouts prove nothing", "LM5252", hint)
    return passed(group, "address spaces are randomised")


def _holders(group: str) -> Result:
    if is_complete():
        return passed(group, "every holder of a socket is seen")
    hint = "run the agent as root"
    text = "without root one uid is one security domain, and descriptors of other users' processes are not seen"
    return warned(group, text, "LM5253", hint)


def _redirect(group: str) -> Result:
    reason = guard.left_out() or redirect.left_out()
    if reason:
        hint = "run the agent as root, with nftables installed and a unified control group hierarchy mounted"
        return warned(
            group, f"what workloads send cannot be redirected (`limen run --intercept`): {reason}", "LM3703", hint
        )
    return passed(group, "what workloads send can be redirected, by control group (nftables)")


def left_out(path: pathlib.Path) -> dict[str, str]:
    """What the agent at a control socket does not guard, as it says itself; without one, what this process would not.

    An agent knows more: the kernel may refuse a packet filter's rules although the command is installed.
    """
    try:
        answer = control.ask(path, {"type": "status"}).get("left_out")
    except Problem:
        missing = {"nft": guard.left_out()}
        if not is_complete():
            missing["root"] = "without root one uid is one security domain"
        return {name: reason for name, reason in missing.items() if reason}
    return {str(name): str(reason) for name, reason in answer.items()} if isinstance(answer, dict) else {}


def guards(missing: Mapping[str, str]) -> list[Result]:
    """Which attacks of the table this host can guard against, without what is missing."""
    group = "attacks"
    found = []
    for attack in attacks.TABLE:
        if attack.guard in missing:
            text = f"not guarded: {attack.name}: {attack.story}: {missing[attack.guard]}"
            found.append(warned(group, text, "LM5253", "run the agent as root, with nftables installed"))
        else:
            found.append(passed(group, f"guarded: {attack.name}"))
    return found
