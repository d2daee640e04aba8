"""Issues what agents ask for: by the identity rules, over the facts that they attested, in batches.

The order is the same for certificates and tokens: entitled, signed, recorded in the database and in the log, each with
one write for the whole batch; only then anything is answered. Works on the server's one worker thread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence

from ca.authority import Authority, JwtOrder
from ca.issuance import IssuedSvid, WorkloadAsk, issue_workloads
from ca.registration import Facts, Refusal, RuleSet
from limen.nodes import Nodes
from limen.values import Ask, Issued, IssuedJwt, JwtAsk
from mesh.clock import Clock, format_time
from mesh.problems import Problem

JWT_TTL = dt.timedelta(minutes=5)
MAX_AUDIENCES = 32
MAX_AUDIENCE_BYTES = 1024
RecordAll = Callable[[str, str, Sequence[Mapping[str, object]]], None]


class Issuing:
    """Issues SVIDs for nodes."""

    def __init__(self, *, authority: Authority, nodes: Nodes, clock: Clock, record: RecordAll) -> None:
        self._authority, self._nodes, self._clock, self._record = authority, nodes, clock, record

    def issue(self, node: str, asks: Sequence[Ask], rules: RuleSet) -> list[Issued]:
        """Certificates; an ask that is refused says why and harms no other."""
        now = self._clock.now()
        of_node = self._nodes.facts_of(node)
        wanted = [WorkloadAsk(_facts(of_node, ask.facts), ask.spki) for ask in asks]
        try:
            found = issue_workloads(self._authority, rules, wanted, node=node, now=now)
        except Problem as problem:
            found = [problem for _ in asks]
        answers, rows = [], []
        for ask, item in zip(asks, found, strict=True):
            if not isinstance(item, IssuedSvid):
                answers.append(Issued(ref=ask.ref, code=item.code, facts=_texts(item.facts)))
                continue
            entitled = item.entitlement
            assert entitled is not None
            spiffe_id = str(item.spiffe_id)
            rows.append(
                {
                    "spiffe_id": spiffe_id,
                    "serial": f"{item.serial:x}",
                    "sha256": item.sha256,
                    "rule": entitled.rule,
                    "not_after": format_time(item.not_after),
                }
            )
            answers.append(
                Issued(
                    ref=ask.ref,
                    spiffe_id=spiffe_id,
                    chain=item.chain,
                    rule=entitled.rule,
                    direct=entitled.direct,
                    hint=entitled.hint,
                    container_bound=entitled.container_bound,
                    federates_with=tuple([str(domain) for domain in entitled.federates_with]),
                )
            )
        self._record("issuance", node, rows)
        return answers

    def issue_jwts(self, node: str, asks: Sequence[JwtAsk], rules: RuleSet) -> list[IssuedJwt]:
        """Tokens.

        1. There is an audience, and the audiences are few and short.
        2. The rules give exactly the identity that the token is asked for.
        3. It lives as long as the rule says, and five minutes at most: a token is whoever's holds it.
        """
        now = self._clock.now()
        answers: list[IssuedJwt] = []
        orders: list[tuple[int, JwtOrder, str]] = []
        of_node = self._nodes.facts_of(node)
        for ask in asks:
            # (1)
            fits = 1 <= len(ask.audiences) <= MAX_AUDIENCES and all(
                0 < len(name.encode()) <= MAX_AUDIENCE_BYTES for name in ask.audiences
            )
            # (2)
            entitled = rules.entitle(_facts(of_node, ask.facts), self._authority.trust_domain)
            if not fits:
                answers.append(IssuedJwt(ref=ask.ref, code="LM1270"))
            elif isinstance(entitled, Refusal):
                answers.append(IssuedJwt(ref=ask.ref, code=entitled.code, facts=_texts(entitled.facts)))
            elif ask.spiffe_id and ask.spiffe_id != str(entitled.spiffe_id):
                answers.append(IssuedJwt(ref=ask.ref, code="LM3510", facts={"spiffe_id": ask.spiffe_id}))
            else:
                # (3)
                life = min(entitled.ttl, JWT_TTL)
                order = JwtOrder(
                    spiffe_id=entitled.spiffe_id,
                    audiences=ask.audiences,
                    life=life,
                    node=node,
                    rule=entitled.rule,
                )
                orders.append((len(answers), order, entitled.hint))
                answers.append(IssuedJwt(ref=ask.ref))
        rows = []
        signed = self._authority.sign_jwts([order for _, order, _ in orders], now=now)
        for (place, order, hint), made in zip(orders, signed, strict=True):
            rows.append(
                {
                    "spiffe_id": str(order.spiffe_id),
                    "jti": made.jti,
                    "sha256": made.sha256,
                    "audience": list(order.audiences),
                    "rule": order.rule,
                    "not_after": format_time(made.not_after),
                }
            )
            answers[place] = IssuedJwt(
                ref=asks[place].ref,
                spiffe_id=str(order.spiffe_id),
                token=made.token,
                not_after=format_time(made.not_after),
                hint=hint,
            )
        self._record("issuance", node, rows)
        return answers


def _facts(of_node: Iterable[tuple[str, str]], pairs: Sequence[tuple[str, str]]) -> Facts:
    """What a node says of a process, and what its own attestation says of the node, whatever it says itself."""
    facts: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if name[:5] != "node:":
            facts[name] = (*facts[name], value) if name in facts else (value,)
    for name, value in of_node:
        facts[name] = (*facts.get(name, ()), value)
    return facts


def _texts(facts: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in facts.items()}
