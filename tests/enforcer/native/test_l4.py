"""How two streams are joined, seen from streams that only remember what is done to them."""

from __future__ import annotations

from enforcer.native.l4 import Splice
from enforcer.native.stream import Sink


class Recorded:
    """A stream that remembers; it reports its loss when it is closed, as a real one does."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.did: list[object] = []

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def write_eof(self) -> None:
        self.did.append("eof")

    def pause(self) -> None:
        self.did.append("pause")

    def resume(self) -> None:
        self.did.append("resume")

    def close(self) -> None:
        self.did.append("close")
        self._lose()

    def abort(self) -> None:
        self.did.append("abort")
        self._lose()

    def _lose(self) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.lost()


def joined() -> tuple[Recorded, Recorded, list[Splice]]:
    left, right = Recorded(), Recorded()
    over: list[Splice] = []
    Splice(left, right, over.append)
    return left, right, over


def sink(stream: Recorded) -> Sink:
    assert stream.sink is not None
    return stream.sink


def test_bytes_and_ends_cross_over() -> None:
    left, right, over = joined()
    sink(left).received(b"a")
    sink(left).ended()
    sink(right).received(b"b")
    assert (left.did, right.did, over) == ([b"b"], [b"a", "eof"], [])


def test_both_ends_close_both_streams() -> None:
    left, right, over = joined()
    sink(left).ended()
    sink(right).ended()
    assert (left.did, right.did, len(over)) == (["eof", "close"], ["eof", "close"], 1)


def test_a_loss_takes_the_other_stream_along() -> None:
    left, right, over = joined()
    sink(left).lost()
    assert right.did == ["abort"]
    assert len(over) == 1


def test_a_stream_that_is_full_holds_the_other() -> None:
    left, right, _ = joined()
    sink(right).writable(ready=False)
    sink(right).writable(ready=True)
    assert left.did == ["pause", "resume"]
    assert right.did == []
