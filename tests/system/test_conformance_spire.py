"""`limen spiffe-conformance` at a real SPIRE agent: what it keeps of the standards, and the one thing it leaves out."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.ca.upstream.spireserver import Spire, running_spire

pytestmark = [pytest.mark.peer, pytest.mark.system, pytest.mark.slow]


@pytest.fixture
def spire() -> Iterator[Spire]:
    # short: socket paths are limited to 107 bytes
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limen-spire-"))
    with running_spire(folder) as found:
        yield found
    shutil.rmtree(folder)


def check(spire: Spire) -> subprocess.CompletedProcess[str]:
    words = ("--state", str(spire.folder / "none"), "spiffe-conformance", "--socket", spire.workload_api, "-o", "json")
    return subprocess.run(
        [sys.executable, "-m", "limen", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_spire_keeps_every_must_that_can_be_seen(spire: Spire, until: Callable[..., object]) -> None:
    none = check(spire)
    assert (none.returncode, "LM1042" in none.stderr) == (4, True)
    spire.entry("/ns/web/sa/front", "-hint", "front")
    until(lambda: check(spire).returncode == 0, 200)
    found = json.loads(check(spire).stdout)
    assert {row["id"] for row in found["rows"] if row["result"] == "fail"} == {"J-17"}
    assert {row["id"] for row in found["rows"] if row["result"] == "n/a"} == {"W-10", "W-12"}
