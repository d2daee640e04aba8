"""A SoftHSM token for one test process: the same library as in production, keys in files of a temporary directory."""

import os
import pathlib
import shutil
import subprocess

import pkcs11
import pytest

LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
PIN = "87654321"
_OURS: list[pathlib.Path] = []


def library() -> str:
    found = next((path for path in LIBRARIES if pathlib.Path(path).exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    return found


def make_token(folder: pathlib.Path, label: str) -> str:
    """Make a token; return its URI. The library reads its settings once in a process, so they stay."""
    module = library()
    if not _OURS:
        _OURS.append(folder)
        (folder / "tokens").mkdir()
        settings = folder / "softhsm2.conf"
        settings.write_text(
            f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(settings)
    made = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(made, check=True, capture_output=True, timeout=100)
    loaded = pkcs11._loaded.get(module)
    if loaded is not None:
        # the library saw its tokens when it began
        loaded.reinitialize()
    pin = folder / f"pin-{label}"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return f"pkcs11:token={label}?module-path={module}&pin-source=file:{pin}"
