import json
from typing import Any

import pytest
from cryptography import x509

from mesh.bundle import parse_bundle
from mesh.spiffe import TrustDomain

pytestmark = pytest.mark.system


def test_the_bundle_in_both_forms_is_the_same(installation: Any) -> None:
    document = installation.limen("bundle", "show").stdout
    found = parse_bundle(TrustDomain("test.limen"), document.encode())
    pem = installation.limen("bundle", "show", "--format", "pem").stdout
    listed = x509.load_pem_x509_certificates(pem.encode())
    from cryptography.hazmat.primitives.serialization import Encoding

    assert tuple(item.public_bytes(Encoding.DER) for item in listed) == found.x509_authorities
    assert json.loads(document)["keys"][0]["use"] == "x509-svid"
