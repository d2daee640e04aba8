import contextlib
import datetime as dt
import hashlib
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys

import jwt
import pytest
import sqlalchemy as sa
from cryptography import x509

from ca import store
from ca.authority import Authority, JwtOrder, new_serial, open_authority, svid_serials
from ca.keys import key_to_der, new_key
from mesh.database import open_database, sqlite_url, transaction
from mesh.problems import Conflict, Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid

ROOT = pathlib.Path(__file__).parents[2]
HOUR = dt.timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")


def test_what_it_signs_verifies_against_its_bundle(authority: Authority, now: dt.datetime) -> None:
    chain = authority.sign(WEB, new_key().public_key(), now=now, life=HOUR, node="n1", rule="r1")
    found = verify_x509_svid(chain, {authority.trust_domain: authority.bundle}, now)
    assert found.spiffe_id == WEB
    assert found.not_after == now + HOUR


def test_every_certificate_is_recorded_before_it_is_given_out(
    authority: Authority, engine: sa.Engine, now: dt.datetime
) -> None:
    leaf = authority.sign(WEB, new_key().public_key(), now=now, life=HOUR, node="n1", rule="r1")[0]
    with transaction(engine) as connection:
        newest = [item for item in store.valid_issuances(connection, now) if item.node]
    serial = x509.load_der_x509_certificate(leaf).serial_number
    assert [(item.serial, item.spiffe_id, item.rule) for item in newest] == [(f"{serial:x}", str(WEB), "r1")]


def test_it_opens_again_with_the_same_keys(
    authority: Authority, engine: sa.Engine, wrapping: WrappingKey, now: dt.datetime
) -> None:
    again = open_authority(engine, wrapping, trust_domain=authority.trust_domain, now=now + HOUR)
    assert again.bundle == authority.bundle
    assert again.intermediates == authority.intermediates
    assert again.server_pin == authority.server_pin
    assert again.server_certificate == authority.server_certificate


def test_another_trust_domains_state_is_refused(
    authority: Authority, engine: sa.Engine, wrapping: WrappingKey, now: dt.datetime
) -> None:
    del authority
    with pytest.raises(Conflict, match="LM1206"):
        open_authority(engine, wrapping, trust_domain=TrustDomain.parse("other.test"), now=now)


def test_another_wrapping_key_opens_nothing(authority: Authority, engine: sa.Engine, now: dt.datetime) -> None:
    with pytest.raises(Invalid, match="LM1201"):
        open_authority(engine, WrappingKey(b"x" * 32, beside_state=False), trust_domain=authority.trust_domain, now=now)


def test_no_key_lies_unwrapped_on_the_disk(authority: Authority, engine: sa.Engine, tmp_path: pathlib.Path) -> None:
    secrets = [key_to_der(key) for key in (authority.issuer.key, authority.server_key)]
    scalars = [
        key.private_numbers().private_value.to_bytes(32, "big") for key in (authority.issuer.key, authority.server_key)
    ]
    engine.dispose()
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert held
    assert not any(secret in held for secret in [*secrets, *scalars])


def test_a_serial_number_that_was_used_refuses(
    engine: sa.Engine, wrapping: WrappingKey, domain: TrustDomain, now: dt.datetime
) -> None:
    draws = iter(range(2, 2000, 2))
    authority = open_authority(
        engine, wrapping, trust_domain=domain, now=now, random=lambda size: next(draws).to_bytes(size, "big")
    )
    key = new_key().public_key()
    first = authority.sign(WEB, key, now=now, life=HOUR, node="n1")
    used = x509.load_der_x509_certificate(first[0]).serial_number
    stuck = open_authority(
        engine, wrapping, trust_domain=domain, now=now, random=lambda size: used.to_bytes(16, "big")[-size:]
    )
    with pytest.raises(Conflict, match="LM1205"):
        stuck.sign(WEB, key, now=now, life=HOUR, node="n1")


@pytest.mark.parametrize("data", [b"\x00" * 16, b"\xff" * 16, b"\x00" * 15 + b"\x01"], ids=["zero", "ones", "one"])
def test_a_serial_number_is_positive_and_fits_20_bytes(data: bytes) -> None:
    found = new_serial(lambda size: data[:size])
    assert 0 < found < 1 << 127


@pytest.mark.parametrize("data", [b"\x00" * 10, b"\xff" * 10], ids=["zero", "ones"])
@pytest.mark.parametrize("year", [1960, 1970, 2026, 9999])
def test_an_svids_serial_number_is_positive_and_fits_20_bytes(data: bytes, year: int) -> None:
    (found,) = svid_serials(dt.datetime(year, 1, 1, tzinfo=dt.UTC), lambda size: data[:size], 1)
    assert 0 < found < 1 << 128


def test_serial_numbers_grow_with_time_and_have_80_random_bits(now: dt.datetime) -> None:
    (least,) = svid_serials(now, lambda size: b"\x00" * size, 1)
    (first,) = svid_serials(now, lambda size: b"\xff" * size, 1)
    (second,) = svid_serials(now + dt.timedelta(milliseconds=1), lambda size: b"\x00" * size, 1)
    assert first < second
    assert first - least == (1 << 80) - 1
    # as text they sort alike: they have the same length for centuries to come
    assert f"{first:x}" < f"{second:x}"


def test_every_serial_number_of_a_batch_has_random_bits_of_its_own(now: dt.datetime) -> None:
    (least,) = svid_serials(now, lambda size: b"\x00" * size, 1)
    found = svid_serials(now, lambda size: bytes(range(size)), 3)
    assert [item - least for item in found] == [int.from_bytes(bytes(range(at, at + 10)), "big") for at in (0, 10, 20)]
    assert svid_serials(now, bytes, 0) == []


def test_an_issuing_certificate_whose_time_is_over_signs_nothing(authority: Authority, now: dt.datetime) -> None:
    with pytest.raises(Invalid, match="LM1204"):
        authority.sign(WEB, new_key().public_key(), now=now + dt.timedelta(days=366), life=HOUR, node="n1")


def test_a_token_is_recorded_with_its_hash_and_shows_nowhere(
    authority: Authority, engine: sa.Engine, now: dt.datetime
) -> None:
    made = authority.sign_jwt(WEB, ("db",), now=now, life=HOUR, node="n1", rule="r1")
    assert made.token not in repr(made)
    assert made.jti in repr(made)
    with transaction(engine) as connection:
        (row,) = store.find_issuances(connection, made.jti, now)
    assert (row.kind, row.sha256) == ("jwt", hashlib.sha256(made.token.encode()).hexdigest())


def test_every_token_of_a_batch_is_its_own_orders(authority: Authority, engine: sa.Engine, now: dt.datetime) -> None:
    orders = [
        JwtOrder(SpiffeId.parse(f"spiffe://corp.test/ns/shop/sa/w{place}"), (f"a{place}",), HOUR, "n1", f"r{place}")
        for place in range(5)
    ]
    made = authority.sign_jwts(orders, now=now)
    key = authority.jwt_key.key.public_key()
    with transaction(engine) as connection:
        rows = [store.find_issuances(connection, item.jti, now)[0] for item in made]
    for order, item, row in zip(orders, made, rows, strict=True):
        claims = jwt.decode(
            item.token, key, algorithms=["ES256"], audience=order.audiences, options={"verify_exp": False}
        )
        assert (claims["sub"], claims["aud"], claims["jti"]) == (str(order.spiffe_id), [*order.audiences], item.jti)
        assert (row.spiffe_id, row.rule, row.sha256) == (claims["sub"], order.rule, item.sha256)
        assert item.sha256 == hashlib.sha256(item.token.encode()).hexdigest()
    assert authority.sign_jwts([], now=now) == []


def test_one_order_that_no_token_can_be_made_of_leaves_no_row_of_its_batch(
    authority: Authority, engine: sa.Engine, now: dt.datetime
) -> None:
    orders = [JwtOrder(WEB, ("db",), HOUR, "n1"), JwtOrder(WEB, (), HOUR, "n1")]
    with pytest.raises(Invalid, match="LM1270"):
        authority.sign_jwts(orders, now=now)
    with transaction(engine) as connection:
        assert [item for item in store.valid_issuances(connection, now) if item.kind == "jwt"] == []


_ISSUER = """
import datetime as dt, pathlib, sys
from ca.authority import open_authority
from ca.keys import new_key
from mesh.database import open_database, sqlite_url
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.wrapping import WrappingKey
from cryptography import x509
now = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
engine = open_database(sqlite_url(pathlib.Path(sys.argv[1])))
domain = TrustDomain.parse("corp.test")
authority = open_authority(engine, WrappingKey(b"w" * 32, beside_state=False), trust_domain=domain, now=now)
key = new_key().public_key()
web = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
print("pin", authority.server_pin, flush=True)
while True:
    chain = authority.sign(web, key, now=now, life=dt.timedelta(hours=1), node="n1")
    print(f"{x509.load_der_x509_certificate(chain[0]).serial_number:x}", flush=True)
"""


@pytest.mark.system
@pytest.mark.slow
def test_kill_9_while_issuing_loses_no_serial_number_and_the_state_opens_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ca.db"
    given_out: list[str] = []
    pins: set[str] = set()
    dice = random.Random(7)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _ISSUER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        pins.add(process.stdout.readline())
        given_out += [process.stdout.readline().strip() for _ in range(dice.randrange(1, 40))]
        process.send_signal(signal.SIGKILL)
        # a line may be cut in the pipe by the kill: only whole lines were given out
        given_out += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        process.stdout.close()
    assert len(pins) == 1
    assert len(given_out) == len(set(given_out))
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        recorded = {row[0] for row in raw.execute("SELECT serial FROM ca_issued")}
    assert set(given_out) <= recorded
    engine = open_database(sqlite_url(path))
    with transaction(engine) as connection:
        assert store.get_authority(connection, "server") is not None
    engine.dispose()


_OPENER = """
import datetime as dt, pathlib, sys
from ca.authority import open_authority
from mesh.database import open_database, sqlite_url
from mesh.spiffe import TrustDomain
from mesh.wrapping import load_wrapping_key
folder = pathlib.Path(sys.argv[1])
engine = open_database(sqlite_url(folder / "ca.db"))
now = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
key = load_wrapping_key(folder, None)
print(open_authority(engine, key, trust_domain=TrustDomain.parse("corp.test"), now=now).server_pin)
engine.dispose()
"""


@pytest.mark.system
def test_processes_that_open_a_new_state_at_once_make_one_authority(tmp_path: pathlib.Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _OPENER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(answers)) == 1
