"""What an agent keeps on the disk: who it is, whom it pinned, and the last good release. Secrets are wrapped.

One JSON file, replaced atomically, and one file per snapshot. The highest epoch is on the disk before a release is
applied, so that no restart lets a lower one in.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from mesh.problems import Invalid
from mesh.wrapping import WrappingKey

_FILE = "node.json"
_PENDING = "pending.key"


@dataclasses.dataclass(slots=True, kw_only=True)
class NodeState:
    """An agent's state. ``chain`` is the node's SVID, leaf first; ``reviewers`` are envelopes as JSON text."""

    trust_domain: str
    url: str
    node_api: str
    server_pin: str
    server_certificate: bytes
    reviewers_pin: str
    spiffe_id: str
    chain: tuple[bytes, ...]
    bundle: bytes
    key: bytes = dataclasses.field(repr=False)
    record_key: bytes = dataclasses.field(repr=False)
    epoch: int = 0
    snapshot: str = ""
    reviewers: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The node's name: the last segment of its SPIFFE ID."""
        return self.spiffe_id.rpartition("/")[2]


def save(folder: pathlib.Path, state: NodeState, wrapping: WrappingKey) -> None:
    """Write the state; durable when it returns."""
    row = {
        "version": 1,
        "trust_domain": state.trust_domain,
        "url": state.url,
        "node_api": state.node_api,
        "server_pin": state.server_pin,
        "server_certificate": _text(state.server_certificate),
        "reviewers_pin": state.reviewers_pin,
        "spiffe_id": state.spiffe_id,
        "chain": [_text(der) for der in state.chain],
        "bundle": _text(state.bundle),
        "key": _text(wrapping.wrap("node", state.key, os.urandom(12))),
        "record_key": _text(wrapping.wrap("records", state.record_key, os.urandom(12))),
        "epoch": state.epoch,
        "snapshot": state.snapshot,
        "reviewers": list(state.reviewers),
        "facts": [list(pair) for pair in state.facts],
    }
    replace_file(folder / _FILE, json.dumps(row).encode())


def has_joined(folder: pathlib.Path) -> bool:
    """Whether there is a state to `load`."""
    return (folder / _FILE).exists()


def load(folder: pathlib.Path, wrapping: WrappingKey) -> NodeState | None:
    """Read the state; None when this node never joined.

    Raises Invalid LM3440 for a file that cannot be read, LM1201 for another wrapping key.
    """
    if not has_joined(folder):
        return None
    path = folder / _FILE
    try:
        row = json.loads(path.read_text("utf-8"))
        return NodeState(
            trust_domain=str(row["trust_domain"]),
            url=str(row["url"]),
            node_api=str(row["node_api"]),
            server_pin=str(row["server_pin"]),
            server_certificate=_bytes(row["server_certificate"]),
            reviewers_pin=str(row["reviewers_pin"]),
            spiffe_id=str(row["spiffe_id"]),
            chain=tuple(_bytes(item) for item in row["chain"]),
            bundle=_bytes(row["bundle"]),
            key=wrapping.unwrap("node", _bytes(row["key"])),
            record_key=wrapping.unwrap("records", _bytes(row["record_key"])),
            epoch=int(row["epoch"]),
            snapshot=str(row["snapshot"]),
            reviewers=tuple(str(item) for item in row["reviewers"]),
            facts=tuple((str(name), str(value)) for name, value in row.get("facts", [])),
        )
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise Invalid("LM3440", path=str(path)) from err


def pending_key(folder: pathlib.Path, wrapping: WrappingKey, *, other_than: bytes = b"") -> ec.EllipticCurvePrivateKey:
    """The key to be certified next: on the disk, wrapped, before anybody hears of it.

    The same one again until `save` has it as the state's key (``other_than``), so that a node that was killed before
    it had the server's answer asks once more for the same. One that cannot be read is replaced: nothing hangs on it.
    """
    path = folder / _PENDING
    try:
        der = wrapping.unwrap("pending", path.read_bytes())
        found = load_der_private_key(der, password=None)
        if der != other_than and isinstance(found, ec.EllipticCurvePrivateKey):
            return found
    except (OSError, ValueError, Invalid):
        pass
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    replace_file(path, wrapping.wrap("pending", der, os.urandom(12)))
    return key


def save_snapshot(folder: pathlib.Path, name: str, content: bytes) -> None:
    """Keep a snapshot's bytes under its hash, and forget all others."""
    keep = folder / f"{name.replace(':', '-')}.json"
    if not keep.exists():
        replace_file(keep, content)


def load_snapshot(folder: pathlib.Path, name: str) -> bytes | None:
    """The bytes of a kept snapshot."""
    path = folder / f"{name.replace(':', '-')}.json"
    return path.read_bytes() if path.exists() else None


def forget_snapshots(folder: pathlib.Path, name: str) -> None:
    """Forget all snapshots but one."""
    for path in folder.glob("sha256-*.json"):
        if path.name != f"{name.replace(':', '-')}.json":
            path.unlink(missing_ok=True)


def replace_file(path: pathlib.Path, data: bytes) -> None:
    """Replace a file atomically and durably; only its owner may read it."""
    draft = path.with_name(f".{path.name}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    return base64.b64decode(str(text), validate=True)
