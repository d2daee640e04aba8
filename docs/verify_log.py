# ruff: noqa: INP001  a script to copy away
"""Verify a copy of an audit log, or one proof, with nothing but this file, `cryptography` and the log's public key.

    python verify_log.py KEY_FILE LOG_DIRECTORY
    python verify_log.py KEY_FILE --proof PROOF.json...

KEY_FILE is the log's `key.pub`, from whoever runs it, not from the copy. The log is in the public C2SP formats
signed-note, tlog-checkpoint and tlog-tiles over RFC 6962 hashes. Exit status: 0 verified; 1 not, and every wrong place.
"""

import base64
import hashlib
import itertools
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def node_hash(left: bytes, right: bytes, kind: bytes = b"\x01") -> bytes:
    """RFC 6962 §2.1: the hash of an inner node, or of a leaf."""
    return hashlib.sha256(kind + left + right).digest()


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1: the root over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(root_of(leaves[:half]), root_of(leaves[half:]))


def read_checkpoint(note: str, vkey: str) -> tuple[int, bytes]:
    """C2SP signed-note and tlog-checkpoint: the signed size and root."""
    name, key_hash, encoded = vkey.strip().split("+", 2)
    key = base64.b64decode(encoded)
    if key[:1] != b"\x01" or hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8] != key_hash:
        raise ValueError("the key file is no Ed25519 verifier key")
    text, _, signatures = note.rpartition("\n\n")
    for line in signatures.strip("\n").split("\n"):
        dash, signer, signature = line.split(" ")
        data = base64.b64decode(signature)
        if dash == "\u2014" and signer == name and data[:4].hex() == key_hash:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(data[4:], f"{text}\n".encode())
            origin, size, root = text.split("\n")[:3]
            if origin == name and size == str(int(size)):
                return int(size), base64.b64decode(root)
    raise ValueError(f"the checkpoint is not signed by {name}")


def path_of(kind: str, index: int, width: int) -> str:
    """C2SP tlog-tiles: where a tile or a bundle stands."""
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    return f"tile/{kind}/{name}" + f".p/{width}" * (width < 256)


def read_tile(directory: pathlib.Path, kind: str, index: int, width: int) -> bytes:
    """A tile or bundle; the full one stands in for a partial one that was removed. Nothing, where neither is."""
    paths = (directory / path_of(kind, index, size) for size in (width, 256))
    return next((path.read_bytes() for path in paths if path.is_file()), b"")


def entries_of(data: bytes, count: int, path: str, wrong: list[str]) -> list[tuple[int, bytes]]:
    """The entries of a bundle, each after its length in two bytes, and where that stands."""
    at, found = 0, list[tuple[int, bytes]]()
    while len(found) < count and (end := at + 2 + int.from_bytes(data[at : at + 2], "big")) <= len(data):
        found.append((at, data[at + 2 : end]))
        at = end
    wrong += [f"{path} breaks off after {len(found)} of {count} records, at byte {at}"] * (len(found) < count)
    return found


def leaves_of(directory: pathlib.Path, size: int, wrong: list[str]) -> tuple[list[bytes], int]:
    """The hash of every record, and how many records were pruned, as a later record says."""
    leaves, gone, pruned = list[bytes](), list[int](), list[list[int]]()
    for first in itertools.takewhile(lambda _: len(wrong) < 1000, range(0, size, 256)):
        index, width = first // 256, min(256, size - first)
        bundle, tile = path_of("entries", index, width), path_of("0", index, width)
        held, data = read_tile(directory, "0", index, width), read_tile(directory, "entries", index, width)
        gone += [first] * (is_gone := width == 256 and held != b"" and not (directory / bundle).exists())
        entries = [] if is_gone else entries_of(data, width, bundle, wrong)
        for at, (begin, entry) in enumerate(entries):
            leaves.append(node_hash(entry, b"", b"\x00"))
            if leaves[-1] != held[at * 32 : at * 32 + 32]:
                record = f"record {first + at}, bytes {begin} to {begin + 1 + len(entry)} of {bundle},"
                wrong.append(f"{record} and its hash, bytes {at * 32} to {at * 32 + 31} of {tile}, differ")
            if b'"kind":"retention"' in entry and (row := json.loads(entry))["kind"] == "retention":
                pruned = row["pruned"] if row["source"].startswith("server:") else pruned
        leaves += [held[at * 32 : at * 32 + 32] for at in range(len(entries), width)]
    lost = [first for first in gone if not any(begin <= first < end for begin, end in pruned)]
    wrong += [f"records from {first} on are missing, and no record says that they were pruned" for first in lost]
    return leaves, 256 * len(gone)


def verify_log(directory: pathlib.Path, vkey: str) -> str:
    """Hash every record and compare with the tiles, every tile with the one above, and all with the signed root."""
    size, root = read_checkpoint((directory / "checkpoint").read_text("utf-8"), vkey)
    below, pruned = leaves_of(directory, size, wrong := list[str]())
    is_right = root_of(below) == root
    for level in range(1, 8):
        below = [root_of(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
        for at, found in enumerate(below):
            index, width, byte = at // 256, min(256, len(below) - at // 256 * 256), at % 256 * 32
            if read_tile(directory, str(level), index, width)[byte : byte + 32] != found:
                path = path_of(str(level), index, width)
                wrong.append(f"bytes {byte} to {byte + 31} of {path} are not the hash of what stands below")
    if wrong or not is_right:
        raise ValueError("\n".join([f"the root of the records is {'' if is_right else 'not '}signed", *wrong[:1000]]))
    return f"{size} records verified, {pruned} of them pruned, root {root.hex()}"


def fold(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """RFC 6962 §2.1.1: the root that a record leads to, by its path."""
    if size < 2 or not path:
        return b"" if path or size > 1 else leaf
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return node_hash(fold(index, half, leaf, path[:-1]), path[-1])
    return node_hash(path[-1], fold(index - half, size - half, leaf, path[:-1]))


def verify_proof(proof: dict[str, object], vkey: str) -> str:
    """From the record up to the signed root."""
    size, root = read_checkpoint(str(proof["checkpoint"]), vkey)
    index, path = int(str(proof["index"])), [base64.b64decode(item) for item in proof["proof"]]  # type: ignore[attr-defined]
    if not 0 <= index < size or json.loads(str(proof["record"]))["id"] != proof["id"]:
        raise ValueError("the proof is not of this record")
    if fold(index, size, node_hash(str(proof["record"]).encode(), b"", b"\x00"), path) != root:
        raise ValueError("the record does not lead to the signed root")
    return f"record {proof['id']} is number {index} of {size} verified"


def main(words: list[str]) -> int:
    """Verify, and say what came of it."""
    try:
        vkey = pathlib.Path(words[0]).read_text("utf-8")
        said = [verify_proof(json.loads(pathlib.Path(name).read_bytes()), vkey) for name in words[2:]]
        sys.stdout.write("\n".join(said or [verify_log(pathlib.Path(words[1]), vkey)]) + "\n")
    except (InvalidSignature, OSError, ValueError, LookupError, TypeError) as err:
        sys.stderr.write(f"not verified: {str(err) or 'wrong signature'}\n" if words else str(__doc__))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
