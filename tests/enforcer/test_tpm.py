"""A software TPM, and tpm2-tools, as on a host: attested over the real door."""

import asyncio
import datetime as dt
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enforcer.door import Door
from enforcer.proof import Method, attest
from enforcer.tpm import Tpm, _first_der, open_tpm
from mesh.problems import Forbidden, Unavailable
from tests.doors import Doors, at_present
from tests.ports import free_ports
from tests.tools import needs
from tests.world import make_world

needs_swtpm = needs("swtpm", "swtpm_setup", "swtpm_localca", "tpm2_createek")


class Chip:
    """A manufactured software TPM that runs."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        for name in ("state", "ca"):
            (folder / name).mkdir(parents=True)
        (folder / "localca.conf").write_text(
            f"statedir = {folder}/ca\nsigningkey = {folder}/ca/key.pem\nissuercert = {folder}/ca/issuer-cert.pem\n"
            f"certserial = {folder}/ca/serial\n"
        )
        (folder / "options").write_text("--platform-manufacturer T\n--platform-version 1\n--platform-model M\n")
        (folder / "setup.conf").write_text(
            f"create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config={folder}/localca.conf\n"
            f"create_certs_tool_options={folder}/options\n"
        )
        subprocess.run(
            ["swtpm_setup", "--tpm2", "--tpmstate", f"{folder}/state", "--create-ek-cert", "--config",
             f"{folder}/setup.conf"],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        # its control port stands behind its data port
        port = free_ports(2)
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/state", "--ctrl",
             f"type=tcp,port={port + 1}", "--server", f"type=tcp,port={port}", "--flags",
             "not-need-init,startup-clear"]
        )  # fmt: skip
        # as TPM2TOOLS_TCTI has it; a comma would end the option, so it comes by the environment
        self.tcti = f"swtpm:host=127.0.0.1,port={port}"

    @property
    def ca_pem(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.folder / "ca").glob("*cert.pem")))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture
def make_chip(tmp_path: pathlib.Path) -> Iterator[Callable[[str], Chip]]:
    made: list[Chip] = []

    def make(name: str) -> Chip:
        made.append(Chip(tmp_path / name))
        return made[-1]

    yield make
    for chip in made:
        chip.stop()


def ready(chip: Chip, until: Callable[..., object]) -> None:
    def answers() -> bool:
        with open_tpm(chip.tcti) as found:
            try:
                found.make_keys()
            except Unavailable:
                return False
        return True

    until(answers)


@pytest.mark.peer
@needs_swtpm
def test_a_certified_tpm_is_its_host_and_another_one_is_not(
    make_chip: Callable[[str], Chip],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., object],
) -> None:
    mine, other = make_chip("mine"), make_chip("other")
    ready(mine, until)
    # after the chips were made: their certificates begin then, and this clock stands still
    world = at_present(make_world(tmp_path / "server"))
    world.clock.advance(dt.timedelta(seconds=2))
    (world.state / "tpm.pem").write_bytes(mine.ca_pem)
    (world.state / "attestors.yaml").write_text("attestors:\n- {name: hw, type: tpm, ek_ca: tpm.pem}\n")
    world.app.tick()
    key = ec.generate_private_key(ec.SECP256R1())

    async def run() -> None:
        async with Doors(world) as doors:
            door = Door(doors.url, str(world.app.pins()["server"]))
            monkeypatch.setenv("TPM2TOOLS_TCTI", mine.tcti)
            first = await asyncio.to_thread(attest, Method.parse("tpm"), door, key, is_fresh=True)
            again = await asyncio.to_thread(attest, Method.parse("tpm"), door, key, is_fresh=False)
            assert first.spiffe_id == again.spiffe_id
            facts = dict(first.facts)
            assert len(facts["node:tpm-ek"]) == 64
            assert facts["node:tpm-ek-issuer"]
            monkeypatch.setenv("TPM2TOOLS_TCTI", other.tcti)
            with pytest.raises(Forbidden, match="LM1247"):
                await asyncio.to_thread(attest, Method.parse("tpm"), door, key, is_fresh=True)
            # known by its hash, the other one comes in without any authority
            digest = facts["node:tpm-ek"]
            (world.state / "attestors.yaml").write_text(
                f"attestors:\n- {{name: hw, type: tpm, ek_hashes: ['{digest}']}}\n"
            )
            await asyncio.get_running_loop().run_in_executor(doors.worker, world.app.tick)
            with pytest.raises(Forbidden, match="LM1247"):
                await asyncio.to_thread(attest, Method.parse("tpm"), door, key, is_fresh=True)
            monkeypatch.setenv("TPM2TOOLS_TCTI", mine.tcti)
            await asyncio.to_thread(attest, Method.parse("tpm"), door, key, is_fresh=True)

    asyncio.run(run())
    world.app.close()


def test_a_tool_that_is_missing_or_fails_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"LM3449.*not installed"):
        Tpm(tmp_path, "").make_keys()
    tool = tmp_path / "tpm2_createek"
    tool.write_text("#!/bin/sh\necho WARNING:x >&2\necho ERROR: no chip >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(Unavailable, match=r"LM3449.*no chip"):
        Tpm(tmp_path, "device:/dev/none").make_keys()


def test_a_certificate_ends_where_it_says() -> None:
    der = b"\x30\x82\x00\x02ab"
    assert _first_der(der + b"\xff" * 9) == der
    assert _first_der(b"x") == b"x"
