"""A web certificate is read again when its files change, and a bad one replaces nothing."""

import os
import pathlib

import pytest
import trustme
from cryptography import x509

from limen.webcert import WebCertificate
from mesh.problems import Invalid

_CA = trustme.CA()


def write(folder: pathlib.Path, *, key: bool = True) -> tuple[pathlib.Path, pathlib.Path]:
    issued = _CA.issue_cert("a.test")
    files = folder / "cert.pem", folder / "key.pem"
    for path, blob in zip(files, (issued.cert_chain_pems[0], issued.private_key_pem), strict=True):
        if path.name != "key.pem" or key:
            draft = folder / "draft"
            blob.write_to_path(draft)
            os.replace(draft, path)
    return files


def test_is_read_again_when_it_was_renewed(tmp_path: pathlib.Path) -> None:
    found = WebCertificate(*write(tmp_path))
    first, life = found.context, found.life
    leaf = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    assert life == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert found.refresh() is None
    write(tmp_path)
    assert found.refresh() is found.context
    assert found.context is not first
    assert found.refresh() is None


def test_half_a_renewal_replaces_nothing_until_it_is_whole(tmp_path: pathlib.Path) -> None:
    found = WebCertificate(*write(tmp_path))
    first = found.context
    write(tmp_path, key=False)
    assert found.refresh() is None
    (tmp_path / "cert.pem").unlink()
    assert found.refresh() is None
    assert found.context is first
    write(tmp_path)
    assert found.refresh() is not None


def test_a_server_does_not_begin_with_a_bad_one(tmp_path: pathlib.Path) -> None:
    files = write(tmp_path)
    files[1].write_text("x")
    with pytest.raises(Invalid, match="LM1516"):
        WebCertificate(*files)
    with pytest.raises(Invalid, match="LM1516"):
        WebCertificate(tmp_path / "none", files[1])
