import pytest

from limen.limits import MAX_PEERS, PeerLimits, peer_name


def test_a_burst_and_then_so_many_a_second() -> None:
    limits = PeerLimits(rate=2, burst=3)
    assert [limits.take("10.0.0.1", 0) for _ in range(4)] == [True, True, True, False]
    assert limits.take("10.0.0.2", 0)
    assert [limits.take("10.0.0.1", 1) for _ in range(3)] == [True, True, False]
    assert not limits.take("10.0.0.1", 0.5)


def test_no_more_addresses_are_kept_than_fit() -> None:
    limits = PeerLimits(rate=1, burst=1)
    for number in range(MAX_PEERS + 100):
        limits.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(limits._buckets) == MAX_PEERS


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("x", "unknown"),
        ("", "unknown"),
    ],
)
def test_one_host_counts_once(peer: str, name: str) -> None:
    assert peer_name(peer) == name
