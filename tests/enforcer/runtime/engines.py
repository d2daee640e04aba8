"""Real engines for the tests: containerd with its CRI, a Docker engine on top of it, and Podman's service.

Each runs on folders of its own and is gone at the end. Images are made here from one static program, containers use
the host's network, and no limit is asked for that a user without CAP_SYS_RESOURCE may not have.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from enforcer.process import read_stat

BUSYBOX = "/bin/busybox"
IMAGE = "localhost/limen-test:1"
PAUSE = "localhost/limen-pause:1"
LABELS = {"app": "shop"}
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--pids-limit", "0")
CRI_PROTO = """
syntax = "proto3";
package limen.test.runtime.v1;
service RuntimeService {
  rpc RunPodSandbox(RunPodSandboxRequest) returns (SandboxId);
  rpc StopPodSandbox(SandboxId) returns (Empty);
  rpc RemovePodSandbox(SandboxId) returns (Empty);
  rpc CreateContainer(CreateContainerRequest) returns (ContainerId);
  rpc StartContainer(ContainerId) returns (Empty);
  rpc StopContainer(ContainerId) returns (Empty);
}
message Empty {}
message SandboxId { string pod_sandbox_id = 1; }
message ContainerId { string container_id = 1; }
message RunPodSandboxRequest { PodSandboxConfig config = 1; }
message Metadata { string name = 1; string uid = 2; string namespace = 3; }
message Namespaces { int32 network = 1; int32 pid = 2; }
message SandboxSecurity { Namespaces namespace_options = 1; }
message ContainerSecurity { Namespaces namespace_options = 3; }
message LinuxSandbox { string cgroup_parent = 1; SandboxSecurity security_context = 2; }
message LinuxContainer { ContainerSecurity security_context = 2; }
message PodSandboxConfig {
  Metadata metadata = 1; string log_directory = 3; map<string, string> labels = 6; LinuxSandbox linux = 8;
}
message ContainerMetadata { string name = 1; }
message ImageSpec { string image = 1; }
message ContainerConfig {
  ContainerMetadata metadata = 1; ImageSpec image = 2; repeated string args = 4; string log_path = 11;
  LinuxContainer linux = 15;
}
message CreateContainerRequest {
  string pod_sandbox_id = 1; ContainerConfig config = 2; PodSandboxConfig sandbox_config = 3;
}
"""


def missing(*programs: str) -> str:
    """What is needed and not here, root included; empty when all is."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in (BUSYBOX, *programs) if shutil.which(name, path="/bin:/usr/bin:/usr/sbin") is None]
    return f"needs {', '.join(absent)}" if absent else ""


def make_image(path: pathlib.Path, name: str, app: str = LABELS["app"]) -> str:
    """An image archive with one program in it; return the image's id."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("busybox")
        data = pathlib.Path(BUSYBOX).read_bytes()
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/busybox", "sleep", "600"], "Labels": {"app": app}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    image = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{image}.json", "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for inside, content in (
            (f"{image}.json", config),
            (f"{digest}/layer.tar", layer.getvalue()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(inside)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return f"sha256:{image}"


def run(*command: str, within_s: float = 300) -> str:
    """Run a command that has to succeed; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def is_answering(path: pathlib.Path) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@contextlib.contextmanager
def served(command: list[str], path: pathlib.Path, log: pathlib.Path) -> Iterator[None]:
    """A server, from when it listens at a socket on."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + 6000
        while not is_answering(path):
            assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < end, log.read_text("utf-8", "replace")[-3000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=100)


def processes() -> list[int]:
    """All processes."""
    return [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]


def name_it(pid: int, text: str) -> bool:
    """Whether a process was started with a text among its arguments."""
    with contextlib.suppress(OSError):
        return text.encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """A folder that nobody else could have put there, with a short name; what is mounted below it is unmounted."""
    found = pathlib.Path(tempfile.mkdtemp(prefix="limen-", dir="/run"))
    try:
        yield found
    finally:
        # what an engine left to clean up after its containers writes there until it is done
        end = time.monotonic() + 600
        while any(name_it(pid, f"{found}/") for pid in processes()) and time.monotonic() < end:
            os.sched_yield()
        mounts = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{found}/")]):
            run("umount", "-l", mount)
        mounts = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
        # never through a mount: what is mounted there is somebody else's
        assert not [mount for mount in mounts if mount.startswith(f"{found}/")]
        shutil.rmtree(found)


class Engine:
    """Docker's or Podman's command line, with its API at ``path``."""

    def __init__(self, command: list[str], path: pathlib.Path, at_once: tuple[str, ...] = ()) -> None:
        self.command, self.path, self.at_once = command, str(path), at_once

    def run(self, *options: str, command: tuple[str, ...] = ("/busybox", "sleep", "600")) -> tuple[str, int]:
        """Start a container; return its id and its first process."""
        found = run(*self.command, "run", "-d", "--network", "host", *_LIMITS, *options, IMAGE, *command)
        return found, self.pid(found)

    def pid(self, container: str) -> int:
        """The first process of a container, from when it executes what it was asked to."""
        return settled(int(run(*self.command, "inspect", container, "--format", "{{.State.Pid}}")))

    def exec(self, container: str, *command: str) -> subprocess.Popen[bytes]:
        """Execute something in a container, beside its first process."""
        return subprocess.Popen([*self.command, "exec", "-i", container, *command], stdin=subprocess.PIPE)

    def stop(self, container: str) -> None:
        """Stop a container at once."""
        run(*self.command, "stop", "-t", "0", container)

    def remove_all(self) -> None:
        """Remove every container."""
        listed = run(*self.command, "ps", "-aq").split()
        if listed:
            run(*self.command, "rm", "-f", *self.at_once, *listed)


@contextlib.contextmanager
def podman(place: pathlib.Path, inside: tuple[str, ...] = ()) -> Iterator[Engine]:
    """Podman and its service. ``inside`` is put in front of every command."""
    path = place / "podman.sock"
    base = [
        *inside, "podman", "--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", "vfs",
        "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", str(place / "tmp"),
        "--runtime", "runc",
    ]  # fmt: skip
    make_image(place / "image.tar", IMAGE)
    run(*base, "load", "-i", str(place / "image.tar"))
    with served([*base, "system", "service", "--time", "0", f"unix://{path}"], path, place / "log"):
        engine = Engine(base, path, at_once=("-t", "0"))
        try:
            yield engine
        finally:
            engine.remove_all()


@contextlib.contextmanager
def only_unified() -> Iterator[tuple[str, ...]]:
    """Namespaces where the unified hierarchy is the only one that engines find, as on hosts of today.

    It begins at a group of its own: an engine that finds itself at the root moves everybody that is there.
    """
    tops = (pathlib.Path("/sys/fs/cgroup/unified"), pathlib.Path("/sys/fs/cgroup"))
    group = next(path for path in tops if path.is_dir()) / "machine.slice" / f"limen-test-{os.getpid()}"
    group.mkdir(parents=True)
    script = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec sleep 600"
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    holder = subprocess.Popen(
        ["sh", "-c", enter, "sh", "unshare", "-C", "-m", "sh", "-c", script], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield ("sh", "-c", enter, "sh", "nsenter", "-C", "-m", "-t", str(holder.pid))
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
        for below, _, _ in os.walk(group, topdown=False):
            for pid in pathlib.Path(below, "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            remove_group(pathlib.Path(below))


def remove_group(group: pathlib.Path) -> None:
    """Remove a control group as soon as its last process is gone."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        os.sched_yield()


@contextlib.contextmanager
def containerd(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """containerd with its CRI; yields its socket."""
    path = place / "containerd.sock"
    (place / "config.toml").write_text(
        f"""version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
address = "{path}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
disable_apparmor = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
    )
    with served(["containerd", "-c", str(place / "config.toml")], path, place / "log"):
        yield path


@contextlib.contextmanager
def docker(place: pathlib.Path) -> Iterator[Engine]:
    """A Docker engine on a containerd of its own."""
    path = place / "docker.sock"
    (place / "daemon.json").write_text("{}")
    make_image(place / "image.tar", IMAGE)
    with containerd(place) as below:
        command = [
            "dockerd", "--config-file", str(place / "daemon.json"), "-H", f"unix://{path}", "--data-root",
            str(place / "data"), "--exec-root", str(place / "exec"), "-p", str(place / "pid"), "--bridge=none",
            "--iptables=false", "--ip-masq=false", "--storage-driver", "vfs", "--containerd", str(below),
        ]  # fmt: skip
        with served(command, path, place / "docker.log"):
            engine = Engine(["docker", "-H", f"unix://{path}"], path)
            run(*engine.command, "load", "-i", str(place / "image.tar"))
            try:
                yield engine
            finally:
                engine.remove_all()


class Kubelet:
    """What a kubelet does to a runtime: pods and their containers, over CRI."""

    def __init__(self, place: pathlib.Path, path: pathlib.Path, image: str) -> None:
        import grpc
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        source, built = place / "kubelet.proto", place / "kubelet.bin"
        source.write_text(CRI_PROTO)
        run(sys.executable, "-m", "grpc_tools.protoc", f"-I{place}", f"-o{built}", str(source))
        pool = descriptor_pool.DescriptorPool()
        pool.Add(descriptor_pb2.FileDescriptorSet.FromString(built.read_bytes()).file[0])
        self._service = pool.FindServiceByName("limen.test.runtime.v1.RuntimeService")
        self._class = message_factory.GetMessageClass
        self._channel = grpc.insecure_channel(f"unix:{path}")
        self._place, self._sandboxes = place, list[str]()
        self.path, self.image = str(path), image

    def call(self, method: str, **fields: Any) -> Any:
        """Call a method of the RuntimeService."""
        found = self._service.FindMethodByName(method)
        rpc = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=self._class(found.output_type).FromString,
        )
        return rpc(self._class(found.input_type)(**fields), timeout=300)

    def run(self, uid: str, **labels: str) -> tuple[str, str]:
        """Start a pod with one container; return the sandbox and the container."""
        namespaces = {"namespace_options": {"network": 2, "pid": 1}}
        config = {
            "metadata": {"name": "web-0", "uid": uid, "namespace": "shop"},
            "labels": labels,
            "log_directory": str(self._place),
            "linux": {"cgroup_parent": f"/kubepods/besteffort/pod{uid}", "security_context": namespaces},
        }
        sandbox = self.call("RunPodSandbox", config=config).pod_sandbox_id
        self._sandboxes.append(sandbox)
        container = self.call(
            "CreateContainer",
            pod_sandbox_id=sandbox,
            sandbox_config=config,
            config={
                "metadata": {"name": "web"},
                "image": {"image": IMAGE},
                "args": ["/busybox", "sleep", "600"],
                "log_path": "web.log",
                "linux": {"security_context": namespaces},
            },
        ).container_id
        self.call("StartContainer", container_id=container)
        return sandbox, container

    def close(self) -> None:
        """Remove every pod."""
        for sandbox in self._sandboxes:
            self.call("StopPodSandbox", pod_sandbox_id=sandbox)
            self.call("RemovePodSandbox", pod_sandbox_id=sandbox)
        self._channel.close()


@contextlib.contextmanager
def kubelet(place: pathlib.Path) -> Iterator[Kubelet]:
    """containerd, and somebody who runs pods on it."""
    image = make_image(place / "image.tar", IMAGE)
    make_image(place / "pause.tar", PAUSE, "pause")
    with containerd(place) as path:
        for name in ("image", "pause"):
            run("ctr", "-a", str(path), "-n", "k8s.io", "images", "import", str(place / f"{name}.tar"))
        found = Kubelet(place, path, image)
        try:
            yield found
        finally:
            found.close()


def settled(pid: int) -> int:
    """A process from when it sleeps in our one program: before, its image is still being made."""
    end = time.monotonic() + 100
    while (
        not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/busybox\0") or read_stat(pid).state != "S"
    ):
        assert time.monotonic() < end
        os.sched_yield()
    return pid


def pids_of(container: str) -> list[int]:
    """The processes in a container's groups."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if container in pathlib.Path(f"/proc/{pid}/cgroup").read_text("utf-8"):
                found.append(pid)
    return sorted(found)


def groups_of(pid: int) -> list[tuple[pathlib.Path, str]]:
    """A process's groups, of each hierarchy that is mounted here: the hierarchy's folder, and the path in it."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines():
        _, names, path = line.split(":", 2)
        for root in [names.removeprefix("name=")] if names else ["unified", "."]:
            top = pathlib.Path("/sys/fs/cgroup", root)
            if (top / path.lstrip("/") / "cgroup.procs").exists():
                found.append((top, path.lstrip("/")))
                break
    return found


@contextlib.contextmanager
def moved(pid: int, groups: list[tuple[pathlib.Path, str]]) -> Iterator[None]:
    """A process in other groups, which are made when they are not there and removed afterwards."""
    before, made = groups_of(pid), []
    try:
        for top, path in groups:
            assert (top / "cgroup.procs").exists()
            at = top
            for word in pathlib.PurePath(path).parts:
                at /= word
                if not at.exists():
                    at.mkdir()
                    made.append(at)
                    # a new group of the cpuset hierarchy takes nobody until it has processors and memory
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        if (at / name).exists() and (at.parent / name).exists():
                            (at / name).write_text((at.parent / name).read_text())
            (at / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for top, path in before:
            with contextlib.suppress(OSError):
                (top / path / "cgroup.procs").write_text(str(pid))
        for at in reversed(made):
            remove_group(at)
