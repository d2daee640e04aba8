"""docs/guides/systemd.md with a systemd of its own: process, mount, IPC and host name namespaces, unified hierarchy."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.tools import needs

MANAGER = "/usr/lib/systemd/systemd"
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a system manager takes root"),
    pytest.mark.skipif(not pathlib.Path(MANAGER).exists(), reason="not installed: systemd"),
    needs("unshare", "nsenter", "systemctl"),
]

BEGIN = f"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mount --bind "$1/units" /etc/systemd/system
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=other
exec {MANAGER} --system --unit=bare.target --log-target=null --show-status=no
"""
PROGRAM = """
import json, os, resource, signal, sys
def say(**words):
    print(json.dumps(words), flush=True)
signal.signal(signal.SIGHUP, lambda *_: say(got="HUP"))
signal.signal(signal.SIGTERM, lambda *_: (say(got="TERM"), sys.exit(0)))
say(pid=os.getpid(), uid=os.getresuid(), files=resource.getrlimit(resource.RLIMIT_NOFILE)[0], umask=os.umask(0o22),
    nice=os.nice(0), x=os.environ["X"], user=os.environ["USER"])
while True:
    signal.pause()
"""
# there is no machine to wait for: neither its disks nor its devices
ALONE = "[Unit]\nDefaultDependencies=no\n"
SERVICE = """
[Service]
ExecStart={bang}{python} -m limen --state {state} run --user nobody {options} -- /usr/bin/python3 {folder}/app
ExecReload={bang}/bin/kill -HUP $MAINPID
WorkingDirectory={root}
StandardOutput=append:{folder}/{name}.out
StandardError=append:{folder}/{name}.err
KillMode=mixed
Environment=X=unit
LimitNOFILE=4321
UMask=0027
Nice=5
Restart=on-failure
RestartSec=100ms
{more}
"""
STRICT = """
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL
ProtectSystem=strict
PrivateDevices=yes
ProtectKernelTunables=yes
SystemCallFilter=@system-service
"""


class Machine:
    """A system manager with a Limen installation under it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.state = folder, folder / "s"
        units = folder / "units"
        units.mkdir()
        (units / "bare.target").write_text("[Unit]\nDescription=bare\n")
        (units / "limen.service").write_text(
            f"{ALONE}[Service]\nExecStart={sys.executable} -m limen --state {self.state} up --trust-domain corp.test\n"
            f"WorkingDirectory={pathlib.Path.cwd()}\nStandardOutput=append:{folder}/limen.out\n"
            f"StandardError=append:{folder}/limen.err\nEnvironment=HOME={folder}\n"
        )
        for name, more in (("web", ""), ("strict", STRICT), ("named", "User=nobody"), ("taken", "")):
            text = SERVICE.format(
                bang="!" if name == "named" else "",
                python=sys.executable,
                state=self.state,
                folder=folder,
                root=pathlib.Path.cwd(),
                name=name,
                options="--intercept --egress udp:10.0.0.53/32:53" if name == "taken" else "",
                more=more,
            )
            (units / f"{name}.service").write_text(ALONE + text)
        (folder / "app").write_text(PROGRAM)
        (folder / "limen.out").touch()
        command = ["unshare", "--fork", "--pid", "--mount", "--ipc", "--uts", "--kill-child", "sh", "-c", BEGIN, "sh"]
        self._process = subprocess.Popen([*command, str(folder)], stdin=subprocess.DEVNULL)

    @property
    def manager(self) -> int | None:
        children = pathlib.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        assert self.manager is not None
        enter = ["nsenter", "-t", str(self.manager), "-m", "-p", "-i", "-u"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=200, check=False)

    def systemctl(self, *words: str) -> str:
        return self.inside("systemctl", *words).stdout.strip()

    def limen(self, *words: str) -> Any:
        done = self.inside(sys.executable, "-m", "limen", "--state", str(self.state), *words, "-o", "json")
        return json.loads(done.stdout) if done.stdout else None

    def said(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.out"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        if self.manager is not None:
            os.kill(self.manager, 9)
        self._process.wait(timeout=200)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., Any]) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    folder.chmod(0o755)
    found = Machine(folder)
    try:
        until(lambda: found.manager is not None and found.systemctl("is-system-running") in {"running", "degraded"})
        found.systemctl("start", "limen")
        until(lambda: "ready up" in (folder / "limen.out").read_text(), 200)
        (found.state / "identities.yaml").write_text(
            f'rules:\n- id: u\n  match: {{"systemd:unit": "*", "launch:script": "{folder}/app"}}\n'
            '  spiffe_id: "/unit/{systemd:unit}"\n'
        )
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("name", ["web", "strict", "named"])
def test_a_units_program_is_the_units_own_and_a_workload(
    machine: Machine, until: Callable[..., Any], name: str
) -> None:
    machine.systemctl("start", name)
    until(lambda: machine.said(name))
    said = machine.said(name)[0]
    assert (said["files"], said["umask"], said["nice"], said["x"], said["user"]) == (4321, 0o27, 5, "unit", "nobody")
    assert set(said["uid"]) == {65534}
    main = machine.systemctl("show", "--property=MainPID", "--value", name)
    assert machine.inside("ps", "-o", "ppid=", "-p", str(said["pid"])).stdout.strip() == main
    wanted = f"spiffe://corp.test/unit/{name}.service"
    until(lambda: wanted in [row["spiffe_id"] for row in machine.limen("identity", "list")])
    # signals arrive once each, and a stop ends it as it wants to end
    machine.systemctl("reload", name)
    until(lambda: len(machine.said(name)) == 2)
    machine.systemctl("stop", name)
    assert [row["got"] for row in machine.said(name)[1:]] == ["HUP", "TERM"]
    assert machine.systemctl("show", "--property=Result", "--value", name) == "success"
    assert not machine.inside("ps", "-p", str(said["pid"]), "-o", "pid=").stdout


@pytest.mark.parametrize("who", ["program", "limen run"])
def test_what_is_killed_is_started_again_and_leaves_nothing(
    machine: Machine, until: Callable[..., Any], who: str
) -> None:
    begun = len(machine.said("web"))
    machine.systemctl("start", "web")
    until(lambda: len(machine.said("web")) == begun + 1)
    pid = machine.said("web")[begun]["pid"]
    main = machine.systemctl("show", "--property=MainPID", "--value", "web")
    machine.inside("kill", "-KILL", str(pid) if who == "program" else main)
    until(lambda: "pid" in (machine.said("web")[-1] if len(machine.said("web")) > begun + 1 else {}))
    assert not machine.inside("ps", "-p", str(pid), "-o", "pid=").stdout
    machine.systemctl("stop", "web")


@needs("nft")
def test_what_a_unit_sends_is_redirected_by_the_units_own_group(machine: Machine, until: Callable[..., Any]) -> None:
    machine.systemctl("start", "taken")
    until(lambda: machine.said("taken"))
    pid = str(machine.said("taken")[0]["pid"])
    lines = machine.inside("cat", f"/proc/{pid}/cgroup").stdout.splitlines()
    group = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    assert group.startswith("system.slice/taken.service/limen_")
    rules = machine.inside("nft", "-n", "list", "ruleset").stdout
    assert f'socket cgroupv2 level 3 "{group}" meta l4proto tcp redirect to :' in rules.replace(
        "meta l4proto 6", "meta l4proto tcp"
    )
    # it still is the unit's, by its identity and by its end
    until(
        lambda: (
            "spiffe://corp.test/unit/taken.service" in [row["spiffe_id"] for row in machine.limen("identity", "list")]
        )
    )
    machine.systemctl("stop", "taken")
    assert machine.systemctl("show", "--property=Result", "--value", "taken") == "success"
    until(lambda: group not in machine.inside("nft", "list", "ruleset").stdout)
    until(lambda: machine.inside("ls", "-d", f"/sys/fs/cgroup/{group}").returncode != 0)
