"""What the framing between agent and sidecar lets through."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.native import wire
from mesh.problems import Invalid

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_MESSAGES = st.dictionaries(st.text(), _JSON, max_size=4).map(lambda found: {**found, "type": "t"})


@given(st.lists(_MESSAGES, max_size=4), st.integers(1, 7))
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(messages: list[wire.Message], step: int) -> None:
    stream = b"".join(map(wire.encode, messages))
    decoder = wire.Decoder()
    found = [message for at in range(0, len(stream), step) for message in decoder.feed(stream[at : at + step])]
    decoder.close()
    assert found == messages


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_a_problem(data: bytes) -> None:
    decoder = wire.Decoder()
    code = None
    try:
        decoder.feed(data)
        decoder.close()
    except Invalid as err:
        code = err.code
    assert code in {None, "LM3001", "LM3002", "LM3003"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="not-an-object"),
        pytest.param(b"{}", id="no-type"),
        pytest.param(b'{"type":1}', id="type-not-text"),
        pytest.param(b'{"type":"a","type":"b"}', id="key-twice"),
        pytest.param(b'{"type":"a","n":{"k":1,"k":2}}', id="inner-key-twice"),
        pytest.param(b'{"type":"a","n":NaN}', id="nan"),
        pytest.param(b'{"type":"a","n":-Infinity}', id="infinity"),
        pytest.param(b'{"type":"a"} {}', id="two-values"),
        pytest.param(b'{"type":"\xff"}', id="not-utf8"),
        pytest.param(b'\xef\xbb\xbf{"type":"a"}', id="bom"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b'{"type":"a","n":' + b"9" * 5000 + b"}", id="huge-number"),
    ],
)
def test_refuses_a_body_that_is_not_one_strict_object(body: bytes) -> None:
    with pytest.raises(Invalid) as err:
        wire.decode(body)
    assert err.value.code == "LM3002"


def test_refuses_a_length_above_the_limit_before_reading_the_body() -> None:
    with pytest.raises(Invalid) as err:
        wire.Decoder().feed(struct.pack(">I", wire.MAX_MESSAGE_BYTES + 1))
    assert err.value.code == "LM3001"


def test_refuses_to_write_more_than_a_frame_holds() -> None:
    with pytest.raises(Invalid) as err:
        wire.encode({"type": "t", "text": "x" * wire.MAX_MESSAGE_BYTES})
    assert err.value.code == "LM3001"


def test_blocking_sockets_carry_messages_and_tell_a_clean_end() -> None:
    left, right = socket.socketpair()
    with right:
        with left:
            wire.send(left, {"type": "one", "text": "ü"})
            wire.send(left, {"type": "two"})
        assert wire.receive(right) == {"type": "one", "text": "ü"}
        assert wire.receive(right) == {"type": "two"}
        assert wire.receive(right) is None


@pytest.mark.parametrize("cut", [1, 3, 4, 9])
def test_a_stream_that_ends_inside_a_message_is_refused(cut: int) -> None:
    frame = wire.encode({"type": "one"})
    left, right = socket.socketpair()
    with right:
        with left:
            left.sendall(frame[:cut])
        with pytest.raises(Invalid) as err:
            wire.receive(right)
    assert err.value.code == "LM3003"


def test_asyncio_streams_speak_the_same() -> None:
    async def talk() -> None:
        left, right = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=left)
        reader, other = await asyncio.open_connection(sock=right)
        await wire.write(writer, {"type": "one", "n": [1, None]})
        assert await wire.read(reader) == {"type": "one", "n": [1, None]}
        writer.write(wire.encode({"type": "two"})[:5])
        writer.close()
        await writer.wait_closed()
        with pytest.raises(Invalid) as err:
            await wire.read(reader)
        assert err.value.code == "LM3003"
        other.close()
        await other.wait_closed()

    asyncio.run(talk())


def test_asyncio_streams_tell_a_clean_end() -> None:
    async def talk() -> wire.Message | None:
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return await wire.read(reader)

    assert asyncio.run(talk()) is None


@given(st.binary(max_size=99))
def test_bytes_travel_as_text(data: bytes) -> None:
    assert wire.text_to_bytes(json.loads(json.dumps(wire.bytes_to_text(data)))) == data


@pytest.mark.parametrize("text", ["é", "a", "a b=", "====", "YQ==\n", 7, None])
def test_refuses_text_that_is_not_base64(text: object) -> None:
    with pytest.raises(Invalid) as err:
        wire.text_to_bytes(text)
    assert err.value.code == "LM3002"


def test_a_list_of_texts_that_are_json_reads_as_a_list_of_values() -> None:
    frame = wire.encode_with({"type": "records", "sequence": 3}, "records", ['{"a":"é"}', "1"])
    assert wire.Decoder().feed(frame) == [{"type": "records", "sequence": 3, "records": [{"a": "é"}, 1]}]
