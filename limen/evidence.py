"""Writes an evidence pack: what an auditor needs to check alone what happened in a time, in one directory.

Records with a proof each, the checkpoint that the proofs lead to, what witnesses cosigned, the releases in force with
their approvals, the stand-alone verifier and a readable page. Whole or not there: it is made beside its place.
"""

from __future__ import annotations

import collections
import importlib.resources
import json
import pathlib
import shutil
import tempfile
from typing import Any

from audit.evidence import MAX_ROWS, page
from audit.places import changed
from audit.reader import CHECKPOINT, KEY, WITNESSED, Reader
from audit.search import Query, search
from audit.tiles import WIDTH
from audit.verify import proof_of, verify_proof
from limen.releases import Policies, Release, approvals_of, releases_in
from mesh.clock import format_time
from mesh.problems import Invalid, Unavailable

Json = Any
_MAX_COUNTS = 10_000


def write_pack(folder: pathlib.Path, key: str, policies: Policies, query: Query, target: pathlib.Path) -> Json:
    """Write the pack of a question; returns what is in it.

    Raises Invalid LM6096 when the directory is there, Unavailable LM6051 when it cannot be written, and what reading
    the log and the policies raises.
    """
    if target.exists():
        raise Invalid("LM6096", path=target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            said = _write(folder, key, policies, query, draft)
            draft.chmod(0o755)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as err:
        raise Unavailable("LM6051", path=target, reason=err.strerror or str(err)) from err
    return said


def _write(folder: pathlib.Path, key: str, policies: Policies, query: Query, out: pathlib.Path) -> Json:
    reader = Reader(folder, key)
    (out / "proofs").mkdir()
    (out / CHECKPOINT).write_bytes(reader.note)
    (out / KEY).write_text(key)
    if (folder / WITNESSED).is_dir():
        shutil.copytree(folder / WITNESSED, out / WITNESSED)
    verifier = pathlib.Path(str(importlib.resources.files("limen"))).parent / "docs" / "verify_log.py"
    shutil.copyfile(verifier, out / "verify_log.py")
    count, first, counts = _records(reader, key, query, out)
    releases = _in_force(releases_in(reader.records()), query)
    approved = _releases(policies, releases, out)
    asked = {
        "service": query.service,
        "since": None if query.since is None else format_time(query.since),
        "until": None if query.until is None else format_time(query.until),
    }
    missing = len(reader.missing) * 256
    facts = [
        *asked.items(),
        ("records", count),
        ("log", reader.checkpoint.origin),
        ("records in the log", reader.size),
        ("root", reader.checkpoint.root.hex()),
        ("records that were not there to be read", missing),
    ]
    title = f"Evidence from {reader.checkpoint.origin}"
    rows = [(*name, number) for name, number in sorted(counts.items())]
    text = page(title=title, facts=facts, releases=approved, counts=rows, rows=first, total=count)
    (out / "report.html").write_text(text, "utf-8")
    said = {**asked, "records": count, "size": reader.size, "missing": missing, "releases": len(releases)}
    (out / "pack.json").write_text(json.dumps(said, indent=2) + "\n")
    return said


def _records(
    reader: Reader, key: str, query: Query, out: pathlib.Path
) -> tuple[int, list[dict[str, object]], collections.Counter[tuple[str, ...]]]:
    """Write every record with its proof; how many, the first ones, and decisions by what they were."""
    count = 0
    first: list[dict[str, object]] = []
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    with (out / "records.jsonl").open("wb") as file:
        for index, row in search(reader.records(), query):
            data = reader.record(index)
            file.write(data + b"\n")
            proof = proof_of(reader, index, data)
            if not verify_proof(proof, key):
                bundle, number = divmod(index, WIDTH)
                raise changed(reader.tiles, bundle, reader.tiles.entries(bundle), number)
            (out / "proofs" / f"{index}.json").write_text(json.dumps(proof))
            count += 1
            if len(first) < MAX_ROWS:
                first.append({"index": index, **row})
            if row["kind"] == "decision":
                name = tuple(str(row.get(part) or "") for part in ("destination", "caller", "decision", "code"))
                if name in counts or len(counts) < _MAX_COUNTS:
                    counts[name] += 1
    return count, first, counts


def _in_force(releases: list[Release], query: Query) -> list[Release]:
    """The releases in force at some moment of a time: the last one before it, and those that began in it."""
    before = [item for item in releases if query.since is not None and item.time <= query.since]
    during = [
        item
        for item in releases
        if (query.since is None or item.time > query.since) and (query.until is None or item.time < query.until)
    ]
    return [*before[-1:], *during]


def _releases(policies: Policies, releases: list[Release], out: pathlib.Path) -> list[tuple[object, ...]]:
    """Write the snapshots, reviews and reviewers of releases; the rows that say who approved what."""
    if not releases:
        return []
    reviews = policies.reviews()
    (out / "snapshots").mkdir()
    for name in {item.snapshot for item in releases}:
        path = out / "snapshots" / f"{name.replace(':', '-')}.json"
        path.write_text(json.dumps(policies.snapshot(name), indent=1, sort_keys=True, ensure_ascii=False), "utf-8")
    wanted = {item.snapshot for item in releases}
    used = [item for item in reviews if item["snapshot"] in wanted]
    (out / "approvals.json").write_text(json.dumps(used, indent=1, ensure_ascii=False), "utf-8")
    (out / "reviewers.json").write_text(json.dumps(policies.reviewers(), indent=1, ensure_ascii=False), "utf-8")
    rows: list[tuple[object, ...]] = []
    for release in releases:
        for item in approvals_of(reviews, release) or [{}]:
            by = (item.get("name"), item.get("time"), item.get("key"))
            rows.append((format_time(release.time), release.epoch, release.snapshot, *by))
    return rows
