import pathlib

import pytest
from cryptography import x509

from limen.opening import open_app, stolen_issuer
from mesh.problems import Problem
from mesh.settings import prepare_state
from tests.world import World, make_world


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    prepare_state(tmp_path / "s")
    return tmp_path / "s"


def code_of(state: pathlib.Path, **change: object) -> str:
    settings: dict[str, object] = {"trust_domain": "a.test", "database": None, "reviewers": None, **change}
    with pytest.raises(Problem) as caught:
        open_app(state, **settings)  # type: ignore[arg-type]
    return caught.value.code


def test_a_first_start_makes_one_local_reviewer_and_a_second_one_keeps_it(state: pathlib.Path) -> None:
    for _ in range(2):
        app = open_app(state, trust_domain="a.test", database=None, reviewers=None)
        found = app.reviewers()
        assert (found["threshold"], [item["name"] for item in found["reviewers"]]) == (1, ["local"])
        app.close()
    assert (state / "reviewer.key").stat().st_mode & 0o077 == 0


def test_another_set_another_domain_or_another_wrapping_key_is_refused(
    state: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_app(state, trust_domain="a.test", database=None, reviewers=None).close()
    other: World = make_world(tmp_path / "other")
    other.app.close()
    file = next(other.state.glob("reviewers-*.json"))
    assert code_of(state, reviewers=file) in {"LM2405", "LM2411"}
    assert code_of(state, trust_domain="b.test") in {"LM1206", "LM2405", "LM2411"}
    assert code_of(state, trust_domain="B") == "LM5214"
    assert code_of(state, reviewers=tmp_path / "none") == "LM2403"
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    monkeypatch.setenv("LIMEN_KEY_FILE", str(key))
    assert code_of(state) == "LM1201"


def test_the_stolen_issuer_is_the_genuine_one(world_state: pathlib.Path) -> None:
    chain, key = stolen_issuer(world_state)
    assert isinstance(chain[0], x509.Certificate)
    assert chain[0].public_key() == key.public_key()


@pytest.fixture
def world_state(state: pathlib.Path) -> pathlib.Path:
    open_app(state, trust_domain="a.test", database=None, reviewers=None).close()
    return state


def test_an_upstream_or_a_key_source_is_asked_for_by_name(state: pathlib.Path) -> None:
    assert code_of(state, upstream="offline") == "LM1615"
    assert code_of(state, upstream="nobody") == "LM1610"
    assert code_of(state, key_source="nowhere") == "LM1620"
    assert code_of(state, key_algorithm="ed25519") == "LM1602"
