import datetime as dt
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from ca import store
from ca.authority import Authority, open_authority
from ca.issuance import IssuedSvid, WorkloadAsk, issue_workloads
from ca.keys import KeyAlgorithm, SigningKey, generate, new_key, spki_der
from ca.pkcs11source import TokenKeys
from ca.pkcs11token import Token
from ca.pkcs11uri import parse_token_uri
from ca.registration import IdentityRule, RuleSet, Selector
from limen import signers
from limen.signers import SignerPool
from mesh.database import open_database, sqlite_url, transaction
from mesh.spiffe import TrustDomain
from mesh.wrapping import WrappingKey
from mesh.x509svid import verify_x509_svid
from tests.ca.softhsm import make_token

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
PARTS = [b"part %d" % number for number in range(400)]
KEY = generate(KeyAlgorithm.P256)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[SignerPool]:
    monkeypatch.setattr(signers, "START_AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr(signers, "ANSWER_WITHIN_S", 60.0)
    monkeypatch.setattr(signers, "_EXITS_WITHIN_S", 60.0)
    found = SignerPool(2)
    found.use(KEY)
    yield found
    found.close()


def check(pool: SignerPool, key: SigningKey = KEY) -> int:
    """Sign the parts; each signature is its part's. Returns how many were made by other processes."""
    before = pool.helped
    found = pool.sign(PARTS)
    for item, part in zip(found, PARTS, strict=True):
        key.verifier()(item.value, part)
    return pool.helped - before


def until_they_help(pool: SignerPool, key: SigningKey = KEY) -> None:
    """Sign until signers, which take a moment to start, have a part in it."""
    while check(pool, key) == 0:
        pass


def test_a_small_batch_is_signed_here_and_starts_nobody(pool: SignerPool) -> None:
    (found,) = pool.sign([b"x"])
    assert not found.is_verified
    assert pool.pids == []
    assert pool.sign([]) == []


def test_without_signers_all_is_signed_here() -> None:
    pool = SignerPool(0)
    pool.use(KEY)
    assert check(pool) == 0


@pytest.mark.parametrize(("cores", "usual"), [({0}, 0), ({3}, 0), ({0, 1}, 1), ({1, 2, 3, 7}, 1)], ids=str)
def test_who_says_nothing_has_one_signer_where_two_cores_are_his(
    cores: set[int], usual: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    assert signers.usual_count() == usual


@pytest.mark.system
def test_signers_that_nobody_needs_end_and_come_back(pool: SignerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    until_they_help(pool)
    before = set(pool.pids)
    monkeypatch.setattr(signers, "REST_AFTER_S", 3600.0)
    pool.rest()
    assert set(pool.pids) == before
    monkeypatch.setattr(signers, "REST_AFTER_S", 0.0)
    pool.rest()
    assert pool.pids == []
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in before)
    until_they_help(pool)
    assert not before & set(pool.pids)


@pytest.mark.system
def test_processes_share_a_batch_and_its_order_stays(pool: SignerPool) -> None:
    until_they_help(pool)
    assert len(pool.pids) == 2


@pytest.mark.system
def test_they_sign_with_the_key_of_now(pool: SignerPool) -> None:
    until_they_help(pool)
    for kind in (KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65, KeyAlgorithm.P256):
        key = generate(kind)
        pool.use(key)
        until_they_help(pool, key)
    assert len(pool.pids) == 2


@pytest.mark.system
def test_what_a_killed_signer_had_taken_is_signed_here(pool: SignerPool) -> None:
    until_they_help(pool)
    before = set(pool.pids)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    check(pool)
    until_they_help(pool)
    assert not before & set(pool.pids)


@pytest.mark.system
def test_a_signer_that_hangs_is_given_up(pool: SignerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    until_they_help(pool)
    hung = pool.pids[0]
    os.kill(hung, signal.SIGSTOP)
    monkeypatch.setattr(signers, "ANSWER_WITHIN_S", 0.3)
    monkeypatch.setattr(signers, "_EXITS_WITHIN_S", 0.1)
    check(pool)
    assert hung not in pool.pids


@pytest.mark.system
def test_a_batch_that_is_given_up_leaves_no_answers_to_the_next(
    pool: SignerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_they_help(pool)
    with monkeypatch.context() as broken:
        broken.setattr(signers.OwnSigner, "sign_and_verify", lambda self, parts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.sign(PARTS)
    until_they_help(pool)


class InToken(ec.EllipticCurvePrivateKey):
    """A key that signs and cannot be read."""

    curve = ec.SECP256R1()
    key_size = 256

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        assert isinstance(KEY.key, ec.EllipticCurvePrivateKey)
        return KEY.key.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        assert isinstance(KEY.key, ec.EllipticCurvePrivateKey)
        return KEY.key.public_key()

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise NotImplementedError

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise NotImplementedError

    def private_bytes(self, *_: object) -> bytes:
        raise NotImplementedError

    def __copy__(self) -> "InToken":
        return self

    def __deepcopy__(self, _: object) -> "InToken":
        return self


@pytest.mark.system
def test_a_key_that_stays_in_its_token_is_used_here_and_ends_the_signers(pool: SignerPool) -> None:
    until_they_help(pool)
    pool.use(SigningKey(InToken()))
    assert pool.pids == []
    assert check(pool) == 0


@pytest.mark.system
def test_they_end_with_the_server(pool: SignerPool) -> None:
    until_they_help(pool)
    pids = pool.pids
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.fixture
def engine(tmp_path: pathlib.Path) -> Iterator[sa.Engine]:
    found = open_database(sqlite_url(tmp_path / "ca.db"))
    yield found
    found.dispose()


@pytest.mark.system
def test_kill_9_of_signers_loses_no_issue_and_repeats_none(pool: SignerPool, engine: sa.Engine) -> None:
    """ALL that is answered verifies and is recorded once, whenever signers die; some of it was signed by them."""
    domain = TrustDomain.parse("corp.test")
    authority: Authority = open_authority(
        engine, WrappingKey(b"w" * 32, beside_state=False), trust_domain=domain, now=NOW
    )
    authority.sign_by(pool)
    rules = RuleSet(
        rules=(IdentityRule(id="u", match=(Selector.parse("unix:uid", "*"),), spiffe_id="/user/{unix:uid}"),)
    )
    spki = spki_der(new_key().public_key())
    asks = [WorkloadAsk(facts={"unix:uid": (str(number),)}, spki=spki) for number in range(100)]
    issued: list[IssuedSvid] = []
    rounds = kills = seen = 0
    while kills < 3:
        rounds += 1
        for item in issue_workloads(authority, rules, asks, node="n1", now=NOW + dt.timedelta(seconds=rounds)):
            assert isinstance(item, IssuedSvid)
            issued.append(item)
        if pool.helped > seen:
            # they had a part in it: now they die, some of them with the next batch in their hands
            seen, kills = pool.helped, kills + 1
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
    assert len({item.serial for item in issued}) == len(issued)
    with transaction(engine) as connection:
        recorded = {item.serial for item in store.valid_issuances(connection, NOW)}
    assert {f"{item.serial:x}" for item in issued} <= recorded
    moment = NOW + dt.timedelta(seconds=rounds)
    for item in issued[:: max(1, len(issued) // 100)]:
        verified = verify_x509_svid(item.chain, {domain: authority.bundle}, moment)
        assert verified.spiffe_id == item.spiffe_id


@pytest.mark.peer
@pytest.mark.parametrize("kind", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048])
def test_an_authority_in_a_token_issues_from_the_template_without_signers(
    tmp_path: pathlib.Path, engine: sa.Engine, kind: KeyAlgorithm
) -> None:
    pytest.importorskip("pkcs11")
    domain = TrustDomain.parse("corp.test")
    keys = TokenKeys(Token(parse_token_uri(make_token(tmp_path, f"limen-signers-{kind}"))))
    wrapping = WrappingKey(b"w" * 32, beside_state=False)
    authority = open_authority(engine, wrapping, trust_domain=domain, now=NOW, key_source=keys, algorithm=kind)
    pool = SignerPool(2)
    authority.sign_by(pool)
    rules = RuleSet(
        rules=(IdentityRule(id="u", match=(Selector.parse("unix:uid", "*"),), spiffe_id="/user/{unix:uid}"),)
    )
    spki = spki_der(new_key().public_key())
    asks = [WorkloadAsk(facts={"unix:uid": (str(number),)}, spki=spki) for number in range(signers.LARGE + 10)]
    for item in issue_workloads(authority, rules, asks, node="n1", now=NOW):
        assert isinstance(item, IssuedSvid)
        assert verify_x509_svid(item.chain, {domain: authority.bundle}, NOW).spiffe_id == item.spiffe_id
    assert pool.pids == []
