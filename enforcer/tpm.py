"""The host's TPM, through tpm2-tools: an attestation key for this once, a challenge opened, a statement quoted.

The programs are run without a shell, by their names on PATH; what they need in files is in a directory of memory that
is gone afterwards, and the opened secret goes through a memory file. Keys never leave the TPM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator

from mesh.problems import Unavailable

WITHIN_S = 60
_EK_CERTIFICATE = "0x01c00002"
_REGISTERS = "sha256:0,1,2,3,4,5,6,7"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TpmKeys:
    """What the TPM shows: EK and AK as TPM2B_PUBLIC, and the EK's certificate, DER, empty without one."""

    ek: bytes
    ak: bytes
    certificate: bytes


class Tpm:
    """A TPM with an attestation key; `open_tpm` makes one."""

    def __init__(self, folder: pathlib.Path, tcti: str) -> None:
        self._folder = folder
        self._env = {name: os.environ[name] for name in ("PATH", "TPM2TOOLS_TCTI") if name in os.environ}
        if tcti:
            self._env["TPM2TOOLS_TCTI"] = tcti

    def make_keys(self) -> TpmKeys:
        """Make the endorsement key from its template, and an attestation key below it."""
        self._run("tpm2_createek", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub")
        self._tidy()
        self._run(
            "tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pub"
        )
        self._tidy()
        certificate = b""
        # a TPM without a certificate may be known by its key's hash
        with contextlib.suppress(Unavailable):
            self._run("tpm2_nvread", "-o", "ek.der", _EK_CERTIFICATE)
            certificate = _first_der((self._folder / "ek.der").read_bytes())
        return TpmKeys(
            ek=(self._folder / "ek.pub").read_bytes(),
            ak=(self._folder / "ak.pub").read_bytes(),
            certificate=certificate,
        )

    def open_challenge(self, credential: bytes) -> bytes:
        """Open what the server sealed to this TPM and this attestation key."""
        (self._folder / "credential").write_bytes(credential)
        self._run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        handle = os.memfd_create("tpm-secret", 0)
        try:
            self._run("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            target = f"/proc/self/fd/{handle}"
            self._run(
                "tpm2_activatecredential",
                *("-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", target, "-P", "session:session.ctx"),
                handle=handle,
            )
            return os.pread(handle, 200, 0)
        finally:
            os.close(handle)
            self._run("tpm2_flushcontext", "session.ctx")
            self._tidy()

    def quote(self, data: bytes) -> tuple[bytes, bytes]:
        """Have the attestation key quote a statement; return the quote and its signature."""
        digest = hashlib.sha256(data).hexdigest()
        self._run(
            "tpm2_quote",
            *("-c", "ak.ctx", "-l", _REGISTERS, "-q", digest, "-m", "quote", "-s", "signature", "-g", "sha256"),
        )
        return (self._folder / "quote").read_bytes(), (self._folder / "signature").read_bytes()

    def _tidy(self) -> None:
        """Unload what a program left loaded: without a resource manager before it, a TPM has three places."""
        with contextlib.suppress(Unavailable):
            self._run("tpm2_flushcontext", "-t")

    def _run(self, program: str, *arguments: str, handle: int | None = None) -> None:
        """Run one of tpm2-tools.

        Raises Unavailable LM3449 when it is not installed, fails or hangs.
        """
        try:
            done = subprocess.run(  # noqa: S603  no shell, arguments of our own
                [program, *arguments],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=WITHIN_S,
                check=False,
                pass_fds=() if handle is None else (handle,),
            )
        except FileNotFoundError as err:
            raise Unavailable("LM3449", program=program, reason="it is not installed") from err
        except subprocess.TimeoutExpired as err:
            raise Unavailable("LM3449", program=program, reason=f"it did not end within {WITHIN_S} s") from err
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
            raise Unavailable("LM3449", program=program, reason=said[0][:300])


@contextlib.contextmanager
def open_tpm(tcti: str = "") -> Iterator[Tpm]:
    """The host's TPM, or the one that ``tcti`` names (as in TPM2TOOLS_TCTI)."""
    memory = pathlib.Path("/dev/shm")  # noqa: S108  memory, not a disk; the directory below is private
    with tempfile.TemporaryDirectory(prefix="limen-tpm-", dir=memory if memory.is_dir() else None) as folder:
        yield Tpm(pathlib.Path(folder), tcti)


def _first_der(data: bytes) -> bytes:
    """The certificate at the front of an index of non-volatile memory, which may be longer."""
    if len(data) < 4 or data[0] != 0x30 or data[1] != 0x82:
        return data
    return data[: 4 + int.from_bytes(data[2:4], "big")]
