import pytest
from hypothesis import given

from ca.neighbours import Words
from limen.downstreamwords import MOST, request_of, words_of
from mesh.problems import Invalid
from mesh.proto import node_pb2 as pb
from tests.ca.test_neighbours import words


@given(words)
def test_words_come_over_as_they_were_said(found: Words) -> None:
    message = request_of(found, trust=7, newer=b"n").SerializeToString()
    assert words_of(pb.PublishRequest.FromString(message), "eu") == found


def test_a_count_is_bounded_and_a_time_is_one() -> None:
    big = pb.PublishRequest(works=[pb.CaWork(certificate="c", certificates=(1 << 64) - 1)])
    assert words_of(big, "eu").works[0].live.certificates == MOST
    with pytest.raises(Invalid, match="LM1627"):
        words_of(pb.PublishRequest(works=[pb.CaWork(certificate="c", last_end="yesterday")]), "eu")
