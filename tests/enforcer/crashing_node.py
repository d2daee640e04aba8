"""A node's life in a process of its own, killed by SIGKILL before its Nth system call that changes the disk.

Joins or loads its state, renews over the node API when the half of its life is over, comes back by the public door
when all of it is; prints its name and the end of its SVID. Usage: crashing_node.py FOLDER URL TOKEN NOW KILL_AT
"""

import asyncio
import datetime as dt
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from enforcer import join, nodestate
from enforcer.membership import Membership
from enforcer.node import Node
from enforcer.skew import ServerClock
from mesh.clock import ManualClock
from mesh.wrapping import WrappingKey
from tests.audit.crashing import Bomb

WRAPPING = WrappingKey(bytes(32), beside_state=False)


async def live(folder: pathlib.Path, url: str, token: str, now: dt.datetime) -> None:
    state = nodestate.load(folder, WRAPPING)
    if state is None:
        state = join.join(url, token, nodestate.pending_key(folder, WRAPPING))
        nodestate.save(folder, state, WRAPPING)
    clock = ServerClock(ManualClock(now))
    node = Node(state, clock)
    member = Membership(folder, state, WRAPPING, api=node, clock=clock)
    # what is due by this clock: nothing, a renewal, or coming back
    member.renew_at = now if len(sys.argv) > 6 else member.renew_at
    done = await member.keep()
    await node.close()
    assert member.problem is None or member.problem.code == "LM3446", member.problem
    sys.stdout.write(f"{state.name} {int(done)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if int(sys.argv[5]) >= 0:
        Bomb(int(sys.argv[5]))
    os.umask(0o077)
    asyncio.run(live(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], dt.datetime.fromisoformat(sys.argv[4])))
