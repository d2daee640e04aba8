import datetime as dt

import pytest
from cryptography import x509

from ca import keys
from ca.acme import profile
from ca.mint import Issuer
from mesh.problems import Invalid
from tests.world import START

LIFE = dt.timedelta(days=90)


def issuer() -> Issuer:
    key = keys.new_key()
    root = profile.mint_root("world.test", key, serial=1, now=START, life=LIFE)
    return Issuer(certificate=x509.load_der_x509_certificate(root), key=key)


def test_a_web_certificate_can_not_pass_for_an_svid() -> None:
    made = profile.mint_web(
        [("dns", "a.test"), ("ip", "::1")], keys.new_key().public_key(), issuer(), serial=2, now=START, life=LIFE
    )
    found = x509.load_der_x509_certificate(made)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert not names.value.get_values_for_type(x509.UniformResourceIdentifier)
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [item.dotted_string for item in usage] == ["1.3.6.1.5.5.7.3.1"]


def test_nothing_outlives_its_issuer() -> None:
    above = issuer()
    made = profile.mint_web([("dns", "a.test")], keys.new_key().public_key(), above, serial=2, now=START, life=LIFE * 9)
    assert x509.load_der_x509_certificate(made).not_valid_after_utc == above.certificate.not_valid_after_utc
    with pytest.raises(Invalid, match="LM1204"):
        profile.mint_web([("dns", "a")], keys.new_key().public_key(), above, serial=2, now=START + LIFE, life=LIFE)
