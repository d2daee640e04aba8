"""`STATE/records.yaml`: what is masked besides what always is, what happens without room, how long records stay.

```yaml
mask:
  drop: [x-ssn]                # never written
  hash: [x-user]               # a keyed HMAC
  tokenise: [order-id]         # read again with the key alone
spool:
  sync: none                   # denials: who is denied is answered only when the record of it is on this host's disk
  when_full: block             # block | spill | sample
  max_bytes: 1073741824
  allowed_one_of: 1            # of allowed requests one of so many is kept, always; the others are counted
  sample: 100                  # the same where `when_full` is sample, once three quarters are full
  spill: /var/spill/limen      # a folder on another disk, and how much of it
  spill_bytes: 4294967296
retention:                     # the server's; an agent keeps nothing that the server has
  keep_days: 400               # what is older is pruned; without it nothing is, but by hand
```
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
from typing import Literal, cast

from audit.masking import MAX_NAMES, Masking
from audit.spool import MAX_SPOOL_BYTES
from mesh import yamlio
from mesh.problems import Invalid

FILE = "records.yaml"
WhenFull = Literal["block", "spill", "sample"]
Sync = Literal["none", "denials"]
_WAYS = ("block", "spill", "sample")
_SYNC = ("none", "denials")
_MASKS = ("drop", "hash", "tokenise")
_RETENTION = ("keep_days",)
MAX_KEEP_DAYS = 36_500
_SPOOL = ("sync", "when_full", "max_bytes", "allowed_one_of", "sample", "spill", "spill_bytes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """What the operator decided; without the file, this."""

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    tokenise: tuple[str, ...] = ()
    sync: Sync = "none"
    when_full: WhenFull = "block"
    max_bytes: int = MAX_SPOOL_BYTES
    allowed_one_of: int = 1
    sample: int = 100
    spill: pathlib.Path | None = None
    spill_bytes: int = MAX_SPOOL_BYTES
    keep: dt.timedelta | None = None

    def masking(self, key: bytes) -> Masking:
        """The masks, under a key."""
        return Masking(key, drop=self.drop, hashed=self.hash, tokenise=self.tokenise)


def load_record_settings(folder: pathlib.Path) -> RecordSettings:
    """The settings in a state folder; the defaults without the file.

    Raises Invalid LM6004.
    """
    path = folder / FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return RecordSettings()
    except (OSError, ValueError) as err:
        raise Invalid("LM6004", file=path, reason=str(err)) from err
    return parse_record_settings(text, str(path))


def parse_record_settings(text: str, file: str) -> RecordSettings:
    """Read the file. Raises Invalid LM6004."""
    documents, findings = yamlio.compose_documents(text, file)
    if findings or len(documents) > 1:
        raise Invalid("LM6004", file=file, reason=str(findings[0]) if findings else "it is one document")
    found = documents[0].plain() if documents else None
    try:
        return _read({} if found is None else _map(found, "the file", ("mask", "spool", "retention")))
    except ValueError as err:
        raise Invalid("LM6004", file=file, reason=str(err)) from err


def _read(found: dict[str, object]) -> RecordSettings:
    mask = _map(found.get("mask", {}), "`mask`", _MASKS)
    spool = _map(found.get("spool", {}), "`spool`", _SPOOL)
    retention = _map(found.get("retention", {}), "`retention`", _RETENTION)
    way = spool.get("when_full", "block")
    if way not in _WAYS:
        raise ValueError(f"`when_full` is one of {', '.join(_WAYS)}")
    sync = spool.get("sync", "none")
    if sync not in _SYNC:
        raise ValueError(f"`sync` is one of {', '.join(_SYNC)}")
    spill = spool.get("spill")
    if (way == "spill") != (spill is not None):
        raise ValueError("`spill` names a folder where `when_full` is spill, and only there")
    if spill is not None and not (isinstance(spill, str) and spill.startswith("/")):
        raise ValueError("`spill` is an absolute path")
    return RecordSettings(
        drop=_names(mask, "drop"),
        hash=_names(mask, "hash"),
        tokenise=_names(mask, "tokenise"),
        sync=cast("Sync", sync),
        when_full=cast("WhenFull", way),
        max_bytes=_number(spool, "max_bytes", 1 << 16, MAX_SPOOL_BYTES),
        allowed_one_of=_number(spool, "allowed_one_of", 1, 1),
        sample=_number(spool, "sample", 2, 100),
        spill=pathlib.Path(spill) if isinstance(spill, str) else None,
        spill_bytes=_number(spool, "spill_bytes", 1 << 16, MAX_SPOOL_BYTES),
        keep=_keep(retention),
    )


def _keep(found: dict[str, object]) -> dt.timedelta | None:
    if "keep_days" not in found:
        return None
    days = _number(found, "keep_days", 1, 1)
    if days > MAX_KEEP_DAYS:
        raise ValueError(f"`keep_days` is {MAX_KEEP_DAYS} at most")
    return dt.timedelta(days=days)


def _map(value: object, what: str, known: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a map")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValueError(f"{what} has no key `{unknown[0]}`; known are {', '.join(known)}")
    return value


def _names(found: dict[str, object], key: str) -> tuple[str, ...]:
    value = found.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"`{key}` is a list of names")
    if len(value) > MAX_NAMES:
        raise ValueError(f"`{key}` has {MAX_NAMES} names at most")
    return tuple(str(item) for item in value)


def _number(found: dict[str, object], key: str, least: int, default: int) -> int:
    value = found.get(key, default)
    if type(value) is not int or value < least:
        raise ValueError(f"`{key}` is a whole number of at least {least}")
    return value
