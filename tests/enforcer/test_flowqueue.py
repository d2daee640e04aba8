import json
from collections import deque

import hypothesis
from hypothesis import strategies as st

from enforcer.flowqueue import PORTION, FlowQueue

STEPS = st.lists(st.tuples(st.sampled_from(("extend", "take")), st.integers(0, 2 * PORTION + 3)), max_size=12)


@hypothesis.given(steps=STEPS, most=st.integers(1, 3 * PORTION))
def test_it_is_a_queue_of_which_the_oldest_go(steps: list[tuple[str, int]], most: int) -> None:
    """Beside a queue that is as simple as one can be."""
    queue, simple, number = FlowQueue(most), deque[bytes](maxlen=most), 0
    for step, count in steps:
        if step == "extend":
            rows = [b"%d" % place for place in range(number, number + count)]
            number += count
            queue.extend(rows)
            simple.extend(rows)
        else:
            assert queue.take(count) == [simple.popleft() for _ in range(min(count, len(simple)))]
        assert len(queue) == len(simple) <= most
    assert queue.take(most) == list(simple)
    assert len(queue) == 0


def test_what_waits_long_is_a_tenth_of_what_it_was() -> None:
    rows = [
        json.dumps(
            {"source": "spiffe://corp.test/ns/shop/sa/web", "destination_port": 8080, "path": f"/orders/{place}"}
        )
        for place in range(50 * PORTION)
    ]
    queue = FlowQueue(len(rows))
    queue.extend(row.encode() for row in rows)
    assert queue.packed_bytes * 10 < sum(map(len, rows))
    assert [row.decode() for row in queue.take(len(rows))] == rows
