"""The demo's story: eight steps, each with the commands a person would type and the processes they would run.

Nothing is simulated: a server, an agent, sidecars and programs run as processes, and every step is the `limen`
command of the same name. This module holds no policy; what is allowed comes from the learner and the reviewers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from limen import attacks
from limen.client import Client
from limen.demo.place import CALLS, SERVICES, TRUST_DOMAIN, Place, prepare
from limen.demo.processes import Processes, Program
from limen.demo.target import Shop
from mesh.clock import Clock
from mesh.problems import Unavailable, catalogue

Say = Callable[[str], None]
REVIEWERS = ("ada", "grace")


@dataclasses.dataclass(slots=True, kw_only=True)
class Summary:
    """What a run of the demo came to; `to_json` is the public form."""

    state: str
    identities: int = 0
    handshakes: int = 0
    flows: int = 0
    proposal: dict[str, object] = dataclasses.field(default_factory=dict)
    plan: dict[str, object] = dataclasses.field(default_factory=dict)
    approvals: int = 0
    legitimate: dict[str, int] = dataclasses.field(default_factory=lambda: {"sent": 0, "allowed": 0})
    attacks: list[dict[str, object]] = dataclasses.field(default_factory=list)
    left_out: list[dict[str, str]] = dataclasses.field(default_factory=list)
    audit: dict[str, object] = dataclasses.field(default_factory=lambda: {"records": 0, "verified": False})
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether all legitimate requests passed, all attacks were denied and the log verifies."""
        sent, allowed = self.legitimate["sent"], self.legitimate["allowed"]
        return (
            sent > 0
            and sent == allowed
            and bool(self.attacks)
            and all(row["denied"] and row["explained"] for row in self.attacks)
            and self.audit["verified"] is True
        )

    def to_json(self) -> dict[str, object]:
        """The JSON summary of the public contract."""
        return dataclasses.asdict(self)


class Demo:
    """One run. `run` tells the story; `stop` ends every process, whatever happened."""

    def __init__(self, root: pathlib.Path, *, clock: Clock, seconds: float, say: Say) -> None:
        self._root = root
        self._clock = clock
        self._seconds = seconds
        self._say = say
        self._client = Client(root / "server.sock")
        self._processes = Processes(root)
        self._programs: dict[str, Program] = {}
        self._place: Place | None = None
        self.summary = Summary(state=str(root))

    @property
    def place(self) -> Place:
        """Paths and ports, once they are prepared."""
        assert self._place is not None
        return self._place

    async def run(self) -> Summary:
        """Tell the story from the first step to the last.

        Raises Problems when a step could not be done at all; what was done badly stands in the summary.
        """
        began = asyncio.get_running_loop().time()
        await self._begin()
        await self._launch()
        await self._watch()
        await self._learn()
        await self._review()
        await self._attack()
        await self._end_traffic()
        await self._audit()
        self.summary.seconds = round(asyncio.get_running_loop().time() - began, 1)
        return self.summary

    async def stop(self) -> None:
        """End every process of this run."""
        await self._processes.stop()

    async def _begin(self) -> None:
        self._say("1  a certificate authority, a server and an agent start")
        self._place = prepare(self._root, self._clock.now())
        members: list[str] = []
        for name in REVIEWERS:
            key = self.place.path(f"{name}.key")
            teams = ["--team", "team-shop"] if name == "ada" else ["--team", "team-payments", "--team", "*"]
            await self._processes.limen("reviewer", "init", "--name", name, *teams, "--out", str(key))
            members += ["--member", f"{key}.pub.json"]
        reviewers = self.place.path("reviewers.json")
        await self._processes.limen(
            "reviewer", "set", *members, "--threshold", "2", "--trust-domain", TRUST_DOMAIN, "--out", str(reviewers)
        )
        up = await self._processes.start("up", "up", "--trust-domain", TRUST_DOMAIN, "--reviewers", str(reviewers))
        await up.until_line("ready up")
        self._say(f"   trust domain {TRUST_DOMAIN}; state in {self._root}; rules need two of {', '.join(REVIEWERS)}")
        await self._publish(self.place.path("policies"), shadow=False)

    async def _publish(self, policies: pathlib.Path, *, shadow: bool) -> None:
        """Propose a tree, have both reviewers approve it, shadow it for a moment if asked, and activate it."""
        made = await self._processes.limen("review", "propose", "--policies", str(policies), "-o", "json")
        review = str(json.loads(made.out)["id"])
        for name in REVIEWERS:
            key = self.place.path(f"{name}.key")
            await self._processes.limen("review", "approve", review, "--key", str(key), "--yes")
            self.summary.approvals += 1
        if shadow:
            await self._processes.limen("review", "shadow", review)
            before = await self._decisions()
            await self._until(lambda: self._more_decisions(before + 20), "decisions beside the candidate")
            self._say(
                "   shadowed: the candidate was decided beside the active snapshot on live traffic, recorded only"
            )
        await self._processes.limen("review", "activate", review)
        await self._until(self._is_applied, "the snapshot in every sidecar")

    async def _decisions(self) -> int:
        found = await self._call("GET", "/v1/status")
        return int(found["records"])

    async def _more_decisions(self, least: int) -> bool:
        return await self._decisions() >= least

    async def _is_applied(self) -> bool:
        found = await self._call("GET", "/v1/status")
        return bool(found["agents"]) and all(row["is_current"] for row in found["agents"])

    async def _launch(self) -> None:
        self._say("2  four services start, each with a sidecar; one identity rule names them all")
        for name in SERVICES:
            await self._launch_one(name)
        await self._until(self._is_serving, "the four services to serve")
        for spiffe_id in await self._identities():
            self._say(f"   {spiffe_id}")
        await self._launch_one("shopper")

    async def _launch_one(self, name: str) -> None:
        options: list[str] = ["--name", name]
        if name in SERVICES:
            options += ["--inbound", f"127.0.0.1:{self.place.inbound[name]}={self.place.application[name]}"]
        for service in CALLS[name]:
            options += ["--outbound", f"{self.place.outbound[name, service]}={service}"]
        program = str(self.place.program(name))
        self._programs[name] = await self._processes.start(
            name, "run", *options, "--", _interpreter(), program, env=self.place.environment(name)
        )

    async def _identities(self) -> list[str]:
        found = await self._call("GET", "/v1/identities")
        return sorted({row["spiffe_id"] for row in found if "/ns/shop/" in row["spiffe_id"]})

    async def _is_serving(self) -> bool:
        """Whether every service has its identity and its program listens."""
        listening = _listening_ports()
        return len(await self._identities()) >= len(SERVICES) and all(
            port in listening for port in self.place.application.values()
        )

    async def _watch(self) -> None:
        self._say(
            f"3  customers shop for {self._seconds:.0f} s; a taken-over job probes paths and a scanner knocks on ports"
        )
        began = asyncio.get_running_loop().time()
        shopper = self._programs["shopper"]
        await shopper.until_row("count")
        await self._launch_one("reporter")
        await self._scan()
        await self._programs["reporter"].until_row("probed")
        rest = self._seconds - (asyncio.get_running_loop().time() - began)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(rest, 0.1)):
                await asyncio.Event().wait()
        sent = self._count()["sent"]
        await self._until(lambda: self._has_flows(sent), "the flows of the first requests")
        self._say(f"   {sent} requests so far, {self._count()['allowed']} answered well; services only observe")

    async def _scan(self) -> None:
        """Knock on every port of the shop and on many others, as a scanner without an identity does."""
        ports = [*self.place.inbound.values(), *range(self.place.inbound["web"] + 1, self.place.inbound["web"] + 60)]
        for port in ports:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"\x16\x03\x01 who is there?\r\n\r\n")
                    writer.close()

    async def _has_flows(self, sent: int) -> bool:
        found = await self._call("GET", "/v1/status")
        return int(found["flow_connections"]) >= sent

    def _count(self) -> dict[str, int]:
        rows = [row["count"] for row in self._programs["shopper"].rows if "count" in row]
        last = rows[-1] if rows else {"sent": 0, "allowed": 0}
        assert isinstance(last, dict)
        return last

    async def _learn(self) -> None:
        self._say("4  the learner reads the sidecars' flows and proposes a policy tree")
        rows = await self._call("GET", "/v1/flows")
        self.summary.flows = len(rows)
        flows = self.place.path("flows.jsonl")
        flows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        out = self.place.path("proposal")
        made = await self._processes.limen("learn", "propose", "--from", str(flows), "--out", str(out), "-o", "json")
        found = json.loads(made.out)
        bound = max((row["session_bound_95"] for row in found["services"]), default=1.0)
        self.summary.proposal = {"rules": found["rules"], "session_bound_95": bound}
        self._say(f"   {found['rules']} rules; 95 %: the next session is uncovered with probability at most")
        for row in found["services"]:
            self._say(f"     {row['session_bound_95']:6.1%}  {row['service']}, from {row['sessions']} sessions")
        self._say("   what the prober tried counts too: a session that would be denied is one, whatever the reason")
        self._say(
            "   a minute holds no whole day, so the bound for the next day is 100 %: nothing is known of tomorrow"
        )
        for row in {(row["source"], row["reason"]): row for row in found["quarantined"]}.values():
            self._say(f"   quarantined: {row['source']}: {row['reason']}: {row['evidence']}")
        if not found["quarantined"]:
            raise Unavailable("LM5223", what="the prober in quarantine")

    async def _review(self) -> None:
        self._say("5  what would enforcing it change? two reviewers look, approve, and it is shadowed and activated")
        proposal = self.place.path("proposal")
        flows = self.place.path("flows.jsonl")
        made = await self._processes.limen(
            "policy",
            "plan",
            "--policies",
            str(proposal),
            "--against",
            "active",
            "--flows",
            str(flows),
            "-o",
            "json",
            expect=(0, 1),
        )
        plan = json.loads(made.out)
        allowed, denied = len(plan["newly_allowed"]), len(plan["newly_denied"])
        self.summary.plan = {"newly_allowed": allowed, "newly_denied": denied}
        impact = plan["impact"]
        self._say(
            f"   plan: {allowed} rows newly allowed, {denied} newly denied; of the recorded requests"
            f" {impact['same']} stay, {impact['newly_denied']} would be denied (the probes)"
        )
        await self._publish(proposal, shadow=True)
        self._say("   both signatures verified by the agent; every service enforces now")

    async def _attack(self) -> None:
        self._say("6  attacks, while customers go on shopping and every certificate is renewed")
        await self._call("POST", "/v1/rotate", {})
        shop = Shop(self.place, self._programs, self._client, self._clock)
        missing = await shop.missing_guards()
        for attack in attacks.TABLE:
            if attack.guard in missing:
                self.summary.left_out.append({"name": attack.name, "reason": missing[attack.guard]})
                self._say(f"   left out  {attack.name}: {missing[attack.guard]}")
                continue
            self.summary.attacks.append(await self._try(attack, shop))
        for name, reason in missing.items():
            if name not in {attack.guard for attack in attacks.TABLE}:
                self.summary.left_out.append({"name": name, "reason": reason})

    async def _try(self, attack: attacks.Attack, shop: Shop) -> dict[str, object]:
        seen = await shop.last_record()
        observed = await attack.run(shop)
        code = observed.code
        if not code and attack.refused_by != "kernel":
            code = await shop.refusal_since(seen, attack)
        explained = code in catalogue()
        denied = observed.denied and code in attack.codes
        mark = "denied " if denied else "ALLOWED"
        self._say(f"   {mark}  {attack.name}: {attack.story}")
        if explained:
            self._say(f"            {code} {catalogue()[code]['name']}")
        return {"name": attack.name, "denied": denied, "code": code, "explained": explained}

    async def _end_traffic(self) -> None:
        shopper = self._programs["shopper"]
        shopper.close_input()
        await shopper.until_row("done", value=True)
        count = self._count()
        self.summary.legitimate = {"sent": count["sent"], "allowed": count["allowed"]}
        self.summary.identities = len(await self._identities())
        status = await self._call("GET", "/v1/status")
        self.summary.handshakes = int(status["handshakes"])
        self._say(
            f"   customers meanwhile: {count['sent']} requests, {count['allowed']} answered well,"
            " across the switch and the renewal"
        )
        for row in shopper.rows:
            if "failed" in row:
                self._say(f"   FAILED    {row}")

    async def _audit(self) -> None:
        self._say("7  the audit log is verified, one denial is proved, and everything is exported")
        log = self._root / "audit"
        key = log / "key.pub"
        checked = await self._processes.limen(
            "audit", "verify", "--log", str(log), "--key", str(key), "-o", "json", expect=(0, 1)
        )
        found = json.loads(checked.out)
        denial = await Shop(self.place, self._programs, self._client, self._clock).one_denial()
        proof = self.place.path("proof.json")
        proved = await self._processes.limen(
            "audit", "prove", denial, "--log", str(log), "--key", str(key), "-o", "json", expect=(0, 1)
        )
        proof.write_text(proved.out, "utf-8")
        export = self.place.path("audit.jsonl")
        await self._processes.limen("audit", "export", "--format", "jsonl", "--to", str(export))
        lines = len(export.read_text("utf-8").splitlines())
        verified = checked.status == 0 and proved.status == 0 and lines > 0
        self.summary.audit = {"records": found["records"], "verified": verified}
        self._say(
            f"   {found['records']} records, checkpoint and inclusion verified: {verified}; exported {lines} lines"
        )

    async def _call(self, method: str, path: str, body: object | None = None) -> Any:  # noqa: ANN401  JSON
        return await asyncio.to_thread(self._client.call, method, path, body)

    async def _until(self, is_there: object, what: str, within_s: float = 30.0) -> None:
        """Ask again and again until a condition holds.

        Raises Unavailable when the time is over.
        """
        assert callable(is_there)
        try:
            async with asyncio.timeout(within_s):
                while not await is_there():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await asyncio.Event().wait()
        except TimeoutError as err:
            raise Unavailable("LM5223", what=what) from err


def _listening_ports() -> frozenset[int]:
    """The ports that some process listens on, as the kernel lists them: nobody has to be asked."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/net/{name}").read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    found.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(found)


def _interpreter() -> str:
    import sys  # noqa: PLC0415  the interpreter that runs us runs the shop

    return str(pathlib.Path(sys.executable))
