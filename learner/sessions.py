"""The units that bounds count: sessions and days, never connections.

A session is a run of one atom (who, whom, port, method, template) by one caller to one port: repeats are collapsed,
so that retries and pools count once, and a pause of more than a minute begins a new one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

from mesh.flow import Flow

GAP = dt.timedelta(seconds=60)
Atom = tuple[str, str, int, str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session: its atom, when it began, and whether the written proposal denies something in it."""

    atom: Atom
    start: dt.datetime
    is_denied: bool


def split_sessions(
    flows: Sequence[Flow], atom_of: Callable[[Flow], Atom], is_denied: Callable[[Flow], bool]
) -> list[Session]:
    """Cut flows into sessions, in time order.

    1. Flows are taken in the order in which they began.
    2. Within one caller, destination and port, a flow of the atom that came last goes into its session, unless more
       than `GAP` passed; anything else begins a session.
    3. A session with ANY flow that the proposal denies is a denied one.
    """
    open_: dict[tuple[str, str, int], tuple[int, dt.datetime]] = {}
    sessions: list[Session] = []
    # (1)
    for flow in sorted(flows, key=lambda item: item.start):
        atom = atom_of(flow)
        key = atom[:3]
        end = flow.end or flow.start
        last = open_.get(key)
        # (2)
        if last is not None and sessions[last[0]].atom == atom and flow.start - last[1] <= GAP:
            index = last[0]
            # (3)
            if is_denied(flow) and not sessions[index].is_denied:
                sessions[index] = dataclasses.replace(sessions[index], is_denied=True)
            open_[key] = (index, max(end, last[1]))
        else:
            sessions.append(Session(atom=atom, start=flow.start, is_denied=is_denied(flow)))
            open_[key] = (len(sessions) - 1, end)
    return sessions
