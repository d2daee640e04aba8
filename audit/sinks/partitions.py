"""Files of a day each: below a directory, or in an S3 bucket, as `day=2026-11-24/000000000000-000000000499.parquet`.

The names are those of the first and the last record's index, so that a batch that comes again with the same bounds
takes its own place. Query engines read `day` from the path (Hive partitioning). Credentials of S3 come from where the
AWS libraries look: environment, profile, or the machine's role.
"""

from __future__ import annotations

import datetime as dt
import importlib
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from audit.destination import Destination, is_local
from audit.formats.forms import FORMS, PARQUET
from audit.formats.meaning import moment, read
from audit.sinks.file import write_file
from audit.sinks.parquet import write_parquet
from mesh.problems import Invalid, Unavailable

_TIMEOUT_S = 30
_LINGER_S = 60.0
_MOST = 20_000
_MEDIA_TYPE = "application/vnd.apache.parquet"
Records = Sequence[tuple[int, bytes]]


class Place(Protocol):
    """Where files are put."""

    def put(self, name: str, write: Callable[[pathlib.Path], object]) -> None:
        """Put a file under a name; ``write`` makes it at a path."""
        ...


class PartitionSink:
    """Files of one day each, in one form."""

    most, linger_s = _MOST, _LINGER_S

    def __init__(self, place: Place, form: str) -> None:
        self._place, self._form = place, form
        self._suffix = ".parquet" if form == PARQUET else FORMS[form].suffix

    def send(self, records: Records) -> None:
        """Put a file for every day that the batch has records of.

        Raises Unavailable LM6101.
        """
        for day, part in _days(records):
            name = f"day={day.isoformat()}/{part[0][0]:012d}-{part[-1][0]:012d}{self._suffix}"
            self._place.put(name, lambda path, part=part: self._write(path, part))  # type: ignore[misc]  # bound now

    def _write(self, path: pathlib.Path, part: Records) -> None:
        if self._form == PARQUET:
            write_parquet(path, part)
        else:
            write_file(path, FORMS[self._form].lines(part))

    def close(self) -> None:
        """Nothing is held."""


def _days(records: Records) -> Iterator[tuple[dt.date, Records]]:
    """Runs of records of one day, in their order."""

    def day(item: tuple[int, bytes]) -> dt.date:
        return moment(item[0], str(read(*item)["time"])).date()

    for found, part in itertools.groupby(records, key=day):
        yield found, list(part)


class Directory:
    """A directory of this machine."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def put(self, name: str, write: Callable[[pathlib.Path], object]) -> None:
        """Make the file, complete or not at all. Raises Unavailable LM6101."""
        target = self._path / name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(target)
        except OSError as err:
            raise Unavailable("LM6101", to=target, reason=err.strerror or str(err)) from err
        except Unavailable as problem:
            raise Unavailable("LM6101", to=target, reason=problem.message) from problem


class Bucket:
    """A bucket of an S3-compatible store: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`."""

    def __init__(self, destination: Destination) -> None:
        """Make the client.

        Raises Invalid LM6105 without its library, LM6100 for an address that does not fit.
        """
        try:
            boto3: Any = importlib.import_module("boto3")
            config: Any = importlib.import_module("botocore.config").Config
            self._errors: Any = importlib.import_module("botocore.exceptions")
            self._transfer_error: Any = importlib.import_module("boto3.exceptions").Boto3Error
        except ImportError as err:
            raise Invalid("LM6105", scheme="s3", package="boto3", extra="s3") from err
        query = dict(destination.query)
        endpoint = query.pop("endpoint", None)
        region = query.pop("region", None)
        if query:
            raise Invalid("LM6100", to=destination.url, reason="it knows `endpoint` and `region`")
        _check_endpoint(destination.url, endpoint)
        self._to, self._bucket, self._prefix = destination.url, destination.host, destination.path.strip("/")
        ca = destination.options.ca
        try:
            self._client = boto3.client(
                "s3",
                endpoint_url=endpoint,
                region_name=region,
                verify=str(ca) if ca is not None else None,
                config=config(
                    connect_timeout=_TIMEOUT_S,
                    read_timeout=_TIMEOUT_S,
                    retries={"max_attempts": 1},
                    s3={"addressing_style": "path"} if endpoint else {},
                ),
            )
        except (self._errors.BotoCoreError, ValueError) as err:
            raise Invalid("LM6100", to=destination.url, reason=str(err)) from err

    def put(self, name: str, write: Callable[[pathlib.Path], object]) -> None:
        """Make the file in a directory of its own, and upload it. Raises Unavailable LM6101."""
        key = f"{self._prefix}/{name}" if self._prefix else name
        with tempfile.TemporaryDirectory(prefix="limen-export-") as folder:
            path = pathlib.Path(folder) / "part"
            write(path)
            try:
                with path.open("rb") as file:
                    self._client.put_object(Bucket=self._bucket, Key=key, Body=file, ContentType=_media_type(name))
            except (self._errors.BotoCoreError, self._errors.ClientError, self._transfer_error, OSError) as err:
                raise Unavailable("LM6101", to=self._to, reason=str(err)) from err


def _media_type(name: str) -> str:
    return _MEDIA_TYPE if name.endswith(".parquet") else "application/octet-stream"


def _check_endpoint(url: str, endpoint: str | None) -> None:
    """Raises Invalid LM6100 for an endpoint without TLS on another machine."""
    if endpoint is None or endpoint.startswith("https://"):
        return
    host = endpoint.removeprefix("http://").partition("/")[0].rpartition(":")[0].strip("[]")
    if not endpoint.startswith("http://") or not is_local(host):
        raise Invalid("LM6100", to=url, reason="records leave this machine over TLS alone")
