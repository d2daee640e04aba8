"""A Rego program as OPA takes it: a bundle, a gzipped tar with a manifest, signed.

The signature is a JWT over the hashes of all files (OPA's `.signatures.json`); JSON files are hashed in a canonical
form, so that a bundle may be written again. One program gives one tar, byte for byte, but for its signature. This
module holds no key: it is handed what signs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping

from policyengine.compile.rego import Program

MANIFEST, DATA, SIGNATURES = ".manifest", "data.json", ".signatures.json"
Sign = Callable[[Mapping[str, object]], str]
"""Takes the claims of a JWT and returns it, signed."""


def files_of(program: Program) -> dict[str, bytes]:
    """The files of an unsigned bundle by their paths."""
    return {
        MANIFEST: _json(program.manifest()),
        DATA: _json(program.data),
        **{name: text.encode() for name, text in program.modules.items()},
    }


def claims_of(files: Mapping[str, bytes]) -> dict[str, object]:
    """What a signature says: every file with its hash."""
    return {
        "files": [
            {"name": name, "hash": _digest(name, content), "algorithm": "SHA-256"}
            for name, content in sorted(files.items())
        ]
    }


def write_bundle(program: Program, sign: Sign | None) -> bytes:
    """The bundle, signed when there is something that signs."""
    files = files_of(program)
    if sign is not None:
        files[SIGNATURES] = _json({"signatures": [sign(claims_of(files))]})
    out = io.BytesIO()
    # no time, no owner: equal content has equal bytes
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _digest(name: str, content: bytes) -> str:
    """A file's hash: of the bytes, or, for JSON, of the value as OPA writes it (keys sorted, no space)."""
    if name == MANIFEST or name.endswith(".json"):
        text = json.dumps(json.loads(content), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        # Go writes these two as escapes whatever it is told
        content = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()
    return hashlib.sha256(content).hexdigest()
