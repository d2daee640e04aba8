"""How bodies are taken out of their framing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.native.body import Body, ChunkedBody, EndlessBody, LengthBody, NoBody
from enforcer.native.serial import chunk, last_chunk
from mesh.problems import Invalid


def read(body: Body, stream: bytes, cuts: list[int] | None = None) -> tuple[bytes, int, bool]:
    """Feed a stream cut anywhere; return data, bytes taken and whether the body is done."""
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or [])})
    data, buffer, taken = b"", b"", 0
    for start, end in itertools.pairwise(edges):
        buffer += stream[start:end]
        found, used = body.read(buffer)
        buffer, taken, data = buffer[used:], taken + used, data + found
        if body.is_done:
            break
    return data, taken, body.is_done


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.lists(st.integers(0, 500), max_size=9))
def test_chunks_come_out_as_they_were_written(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(chunk, parts)) + last_chunk(b"x: y\r\n")
    body = ChunkedBody(keep_trailers=True)
    assert read(body, stream, cuts) == (b"".join(parts), len(stream), True)
    assert body.trailers == b"x: y\r\n"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"1;x=y\r\na\r\n0\r\n\r\n", id="extension"),
        pytest.param(b"1 \r\na\r\n", id="space-after-size"),
        pytest.param(b" 1\r\na\r\n", id="space-before-size"),
        pytest.param(b"1\na\r\n", id="bare-lf"),
        pytest.param(b"1\r\nab\r\n", id="longer-than-said"),
        pytest.param(b"1\r\na\n0\r\n\r\n", id="bare-lf-after-data"),
        pytest.param(b"0x1\r\na\r\n", id="hex-prefix"),
        pytest.param(b"-1\r\n", id="negative"),
        pytest.param(b"\r\n", id="empty-size"),
        pytest.param(b"1_0\r\n", id="underscore"),
        pytest.param(b"f" * 16 + b"\r\n", id="too-many-digits"),
        pytest.param(b"0\r\nx\r\n\r\n", id="trailer-no-field"),
        pytest.param(b"0\r\n folded\r\n\r\n", id="trailer-folded"),
        pytest.param(b"0\r\nx: a\n\r\n", id="trailer-bare-lf"),
        pytest.param(b"0\r\n" + b"x: y\r\n" * 2000, id="trailers-too-long"),
    ],
)
def test_refuses_chunks_that_programs_read_differently(stream: bytes) -> None:
    with pytest.raises(Invalid) as err:
        read(ChunkedBody(), stream)
    assert err.value.code == "LM3109"


def _outcome(stream: bytes, cuts: list[int]) -> object:
    try:
        return read(ChunkedBody(), stream, cuts)
    except Invalid as err:
        return err.code


@given(st.binary(max_size=60) | st.text("01aF\r\n;x: ", max_size=40).map(str.encode), st.lists(st.integers(0, 60)))
def test_the_way_bytes_arrive_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    whole, parts = _outcome(stream, []), _outcome(stream, cuts)
    assert whole == parts


def test_a_length_takes_exactly_its_bytes() -> None:
    assert read(LengthBody(3), b"abcdef", [1, 2]) == (b"abc", 3, True)
    assert read(LengthBody(3), b"ab") == (b"ab", 2, False)
    assert LengthBody(0).is_done


def test_no_body_takes_nothing_and_an_endless_one_everything() -> None:
    assert NoBody().read(b"abc") == (b"", 0)
    assert NoBody().is_done
    assert read(EndlessBody(), b"abc") == (b"abc", 3, False)
