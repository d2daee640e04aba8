import pathlib

from limen.attestorsfile import AttestorsFile
from tests.pki import make, usage

TEXT = "attestors:\n- {name: vm, type: x509pop, ca: ca.pem}\n"


def ca() -> bytes:
    return make(subject="machines", ca=True, key_usage=usage(key_cert_sign=True), extended=None).pem


def test_the_file_and_what_it_names_are_read_again_when_they_change(tmp_path: pathlib.Path) -> None:
    file = AttestorsFile(tmp_path / "attestors.yaml")
    assert not file.refresh()
    (tmp_path / "ca.pem").write_bytes(ca())
    (tmp_path / "attestors.yaml").write_text(TEXT)
    assert file.refresh()
    assert not file.refresh()
    before = file.find("vm")
    (tmp_path / "ca.pem").write_bytes(ca())
    assert file.refresh()
    assert file.find("vm") != before
    # an error keeps the last good ones, and its correction counts
    (tmp_path / "ca.pem").unlink()
    assert not file.refresh()
    assert file.find("vm") is not None
    (tmp_path / "ca.pem").write_bytes(ca())
    assert file.refresh()
    (tmp_path / "attestors.yaml").unlink()
    assert file.refresh()
    assert file.attestors == ()


def test_an_attestor_is_found_by_name_or_by_a_type_of_which_there_is_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ca.pem").write_bytes(ca())
    (tmp_path / "attestors.yaml").write_text(TEXT)
    file = AttestorsFile(tmp_path / "attestors.yaml")
    file.refresh()
    assert file.find("vm") == file.find("x509pop") == file.attestors[0]
    assert file.find("tpm") is None
    (tmp_path / "attestors.yaml").write_text(TEXT + "- {name: vm2, type: x509pop, ca: ca.pem}\n")
    file.refresh()
    assert file.find("x509pop") is None
    assert file.find("vm2") is not None
