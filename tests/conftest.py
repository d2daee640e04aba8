"""One running installation for all tests that need one: `limen up` in a process of its own."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import hypothesis
import pytest

import mesh.database
from tests import migrated, recordschema
from tests.examples import IS_REPEATABLE, examples

# before any module has it by name
mesh.database.migrate = migrated.migrate
recordschema.watch()

# no deadline, and no look at how long drawing takes: a machine that is shared makes any example slow
hypothesis.settings.register_profile(
    "limen",
    max_examples=examples(50),
    deadline=None,
    derandomize=IS_REPEATABLE,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("limen")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests that wait for a process, a socket or a disk leave theirs to others."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that starts an installation for itself alone is slow: three processes, each with all its libraries."""
    for item in items:
        if "make_installation" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@dataclasses.dataclass(slots=True)
class Installation:
    """A running `limen up` and its state directory."""

    state: pathlib.Path
    process: subprocess.Popen[str]

    def limen(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "limen", "--state", str(self.state), *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    def json(self, *arguments: str) -> object:
        done = self.limen(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def pid(self, name: str) -> int:
        return int(json.loads((self.state / "run" / f"{name}.json").read_text("utf-8"))["pid"])

    def address(self, name: str, door: str) -> str:
        return str(json.loads((self.state / "run" / f"{name}.json").read_text("utf-8"))["addresses"][door])

    def rules(self, text: str) -> None:
        (self.state / "identities.yaml").write_text(text, "utf-8")


def start(state: pathlib.Path, *arguments: str) -> Installation:
    with (state / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "limen", "--state", str(state), "up", "--trust-domain", "test.limen", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready up\n":
            return Installation(state, process)
    raise AssertionError((state / "stderr").read_text("utf-8"))


def stop(installation: Installation) -> None:
    installation.process.send_signal(signal.SIGTERM)
    assert installation.process.wait(timeout=200) == 0
    assert installation.process.stdout is not None
    installation.process.stdout.close()


@pytest.fixture(scope="module")
def own_installation() -> Iterator[Installation]:
    """One that the tests of a module have for themselves: they may publish and rotate in it."""
    state = pathlib.Path(tempfile.mkdtemp(prefix="limen-m-"))
    found = start(state)
    yield found
    stop(found)
    shutil.rmtree(state)


@pytest.fixture
def make_installation() -> Iterator[Callable[..., Installation]]:
    made: list[Installation] = []

    def make(*arguments: str) -> Installation:
        # short: socket paths are limited to 107 bytes
        state = pathlib.Path(tempfile.mkdtemp(prefix="limen-t-"))
        made.append(start(state, *arguments))
        return made[-1]

    yield make
    for item in made:
        if item.process.poll() is None:
            stop(item)
        elif item.process.stdout is not None:
            item.process.stdout.close()
        shutil.rmtree(item.state)


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    state = pathlib.Path(tempfile.mkdtemp(prefix="limen-s-"))
    found = start(state)
    yield found
    stop(found)
    left = [path.name for path in state.rglob("*") if path.is_socket()]
    shutil.rmtree(state)
    assert left == []


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


def wait_for(claim: Callable[[], object], seconds: float = 100) -> object:
    """Ask until a claim holds and return what it gave; in between the processor is whose that is waited for."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = claim()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    return wait_for


def run_program(installation: Installation, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = ("run", *options, "--", sys.executable, program)
    return installation.limen(*command)
