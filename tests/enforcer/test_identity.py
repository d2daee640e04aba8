import datetime as dt

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from enforcer.identity import half_life, new_ask, read_issued
from mesh.problems import Forbidden
from mesh.proto import node_pb2 as pb
from tests.pki import NOW, Pki


def test_every_ask_has_a_key_of_its_own() -> None:
    one, key = new_ask("1", [("unix:uid", "1"), ("unix:uid", "2")])
    two, _ = new_ask("2", [])
    assert one.spki != two.spki
    assert [(fact.key, fact.value) for fact in one.facts] == [("unix:uid", "1"), ("unix:uid", "2")]
    assert load_der_private_key(key, None) is not None


def test_what_was_issued_is_read_and_a_refusal_raises_its_code() -> None:
    leaf = Pki().leaf()
    issued = pb.IssuedSvid(
        ref="1", spiffe_id="spiffe://corp.test/ns/web/sa/front", chain=[leaf.der], rule="r", hint="h", direct=True
    )
    found = read_issued(issued, b"key", NOW)
    assert (str(found.svid.spiffe_id), found.rule, found.hint, found.direct) == (issued.spiffe_id, "r", "h", True)
    assert NOW < found.renew_at < found.svid.not_after
    with pytest.raises(Forbidden, match="LM1210"):
        read_issued(pb.IssuedSvid(ref="1", code="LM1210", facts={"count": "3"}), b"", NOW)


def test_renewal_is_at_half_life_give_or_take_a_tenth() -> None:
    hour = dt.timedelta(hours=1)
    for _ in range(100):
        moment = half_life(NOW, NOW + hour)
        assert 0.45 * hour <= moment - NOW <= 0.55 * hour
