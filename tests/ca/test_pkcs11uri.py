import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.pkcs11uri import parse_token_uri, read_pin
from mesh.problems import Invalid

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"


def test_a_token_is_named_by_label_library_and_pin_file() -> None:
    found = parse_token_uri(f"pkcs11:token=My%20CA;object=root?module-path={LIBRARY}&pin-source=file:/etc/pin")
    assert (found.token, found.object, str(found.module), found.pin_source) == (
        "My CA",
        "root",
        LIBRARY,
        "file:/etc/pin",
    )


def test_a_token_may_be_named_by_its_serial_number() -> None:
    assert parse_token_uri(f"pkcs11:serial=0a1b?module-path={LIBRARY}").serial == "0a1b"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("pkcs11:", id="nothing"),
        pytest.param("pkcs12:token=a?module-path=/a", id="scheme"),
        pytest.param("pkcs11:token=a", id="no-library"),
        pytest.param("pkcs11:token=a?module-path=lib.so", id="relative-library"),
        pytest.param("pkcs11:?module-path=/a", id="no-token"),
        pytest.param("pkcs11:token=?module-path=/a", id="empty-token"),
        pytest.param("pkcs11:token=a;token=b?module-path=/a", id="twice"),
        pytest.param("pkcs11:token=a?module-path=/a&pin-souce=file:/p", id="misspelt"),
        pytest.param("pkcs11:token=%ff?module-path=/a", id="not-utf8"),
        pytest.param("pkcs11:token?module-path=/a", id="no-value"),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LM1608"):
        parse_token_uri(text)


def test_a_pin_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(Invalid, match="LM1608") as caught:
        parse_token_uri("pkcs11:token=a?module-path=/a&pin-value=98765")
    assert "98765" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_token_uri("pkcs11:" + text)
    except Invalid as err:
        assert err.code == "LM1608"


@pytest.fixture
def pin(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "pin"
    path.write_text("1234\n")
    path.chmod(0o600)
    return path


def test_a_pin_is_read_from_a_file_or_a_credential(pin: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(pin.parent))
    assert {read_pin(f"file:{pin}"), read_pin(str(pin)), read_pin("credential:pin")} == {"1234"}


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"12\n34", b"\xff\xfe", b"1" * 300], ids=["empty", "line", "two", "bytes", "long"]
)
def test_a_file_without_a_pin_is_refused(pin: pathlib.Path, content: bytes) -> None:
    pin.write_bytes(content)
    with pytest.raises(Invalid, match="LM1607"):
        read_pin(f"file:{pin}")


def test_a_pin_that_others_may_read_is_refused(pin: pathlib.Path) -> None:
    pin.chmod(0o644)
    with pytest.raises(Invalid, match="LM1607"):
        read_pin(f"file:{pin}")


@pytest.mark.parametrize(
    "source", ["credential:../pin", "credential:", "credential:.pin", "file:/nowhere/pin", "/nowhere"]
)
def test_a_pin_that_is_not_there_is_said(source: str, pin: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(pin.parent / "sub"))
    with pytest.raises(Invalid, match="LM1607"):
        read_pin(source)
