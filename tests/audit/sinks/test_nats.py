import asyncio
import json
import pathlib

import nats as library
import pytest

from audit.destination import parse_destination
from audit.sinks.nats import NatsSink
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, as_json, samples
from tests.audit.receivers import free_port, nats


async def begin(port: int) -> None:
    client = await library.connect(f"nats://127.0.0.1:{port}")
    await client.jetstream().add_stream(name="AUDIT", subjects=["limen.audit"])
    await client.close()


async def received(port: int) -> list[dict[str, object]]:
    client = await library.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream()
    count = (await stream.stream_info("AUDIT")).state.messages
    found = [json.loads((await stream.get_msg("AUDIT", seq=number + 1)).data or b"") for number in range(count)]
    await client.close()
    return found


@pytest.mark.slow
@pytest.mark.peer
def test_a_stream_has_every_record_once_in_its_order_though_it_was_delivered_twice(tmp_path: pathlib.Path) -> None:
    port = free_port()
    sink = NatsSink(parse_destination(f"nats://127.0.0.1:{port}/limen.audit"), "corp.test/audit")
    with pytest.raises(Problem) as caught:
        sink.send(samples()[:1])
    assert caught.value.code == "LM6101"
    with nats(tmp_path, port):
        with pytest.raises(Problem) as caught:
            # there is no stream yet: nobody would keep it
            sink.send(samples()[:1])
        assert caught.value.code == "LM6101"
        asyncio.run(begin(port))
        sink.send(samples()[:5])
        sink.send(samples())
        found = asyncio.run(received(port))
    assert found == [as_json(data) for _, data in samples()]
    with pytest.raises(Problem):
        sink.send(samples())
    with nats(tmp_path, port):
        sink.send(samples())
        assert len(asyncio.run(received(port))) == len(SAMPLES)
        sink.close()


def test_without_its_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nats", None)
    with pytest.raises(Problem) as caught:
        NatsSink(parse_destination("nats://127.0.0.1/limen.audit"), "o")
    assert (caught.value.code, "limen[nats]" in caught.value.help) == ("LM6105", True)
