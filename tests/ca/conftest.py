"""An authority with its own database, and the facts of a process."""

import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from ca.authority import Authority, open_authority
from mesh.database import open_database, sqlite_url
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def now() -> dt.datetime:
    return NOW


@pytest.fixture
def domain() -> TrustDomain:
    return TrustDomain.parse("corp.test")


@pytest.fixture
def wrapping() -> WrappingKey:
    return WrappingKey(b"w" * 32, beside_state=False)


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[sa.Engine]:
    found = open_database(sqlite_url(tmp_path / "ca.db"))
    yield found
    found.dispose()


@pytest.fixture
def authority(engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime) -> Authority:
    return open_authority(engine, wrapping, trust_domain=domain, now=now)
