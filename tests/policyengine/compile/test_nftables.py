"""Policies out to nftables: what a host's firewall opens, by a model, by `nft` itself and by real packets."""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from mesh.spiffe import SpiffeId, TrustDomain
from policyengine.compile.export import Workload
from policyengine.compile.nftables import compile_nftables
from policyengine.decide import Index
from tests.examples import examples
from tests.policyengine.targets import trees
from tests.tools import needs

TD = TrustDomain("corp.test")
ADDRESSES = {
    "spiffe://corp.test/ns/shop/sa/db": "10.77.0.1",
    "spiffe://corp.test/ns/shop/sa/cart": "10.77.0.2",
    "spiffe://corp.test/ns/shop/sa/web": "10.77.0.3",
    "spiffe://corp.test/ns/ops/sa/admin": "192.0.2.4",
    "spiffe://corp.test/ns/ops/sa/probe": "192.0.2.5",
}
WORKLOADS = {SpiffeId.parse(name): Workload(addresses=(address,)) for name, address in ADDRESSES.items()}
CART = "spiffe://corp.test/ns/shop/sa/cart"


def accepts(text: str, source: str, port: int, home: str = "10.77.0.1") -> bool:
    """What the chain says of a new connection: the first line that fits decides, and none is accept."""
    for line in text.splitlines():
        words = line.split()
        if words[:2] != ["ip", "daddr"] or words[2] != home or words[5] != str(port):
            continue
        if words[-1] == "accept" and source in line.partition("{")[2].partition("}")[0].replace(",", " ").split():
            return True
        if words[-1] == "drop":
            return False
    return True


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.l4_sets | trees.policy_sets, st.lists(trees.calls, min_size=1, max_size=12))
def test_the_table_never_opens_what_limen_denies_and_keeps_the_rest_where_nothing_is_said(policies, some) -> None:
    import dataclasses

    found = compile_nftables(policies, TD, WORKLOADS)
    text = dict(found.files)["limen.nft"]
    said = [item for item in found.findings["db"] if item.code in {"LM2510", "LM2511", "LM2513"}]
    is_exact = all("workloads of the list" in item.message for item in said)
    index = Index(policies, "s")
    for call in some:
        if call.caller not in ADDRESSES:
            continue
        placed = dataclasses.replace(call, peer_ip=ADDRESSES[call.caller])
        ours = index.decide(placed.request("db")).effect is Effect.ALLOW
        assert ours or not accepts(text, placed.peer_ip, call.port), placed
        if is_exact:
            assert ours == accepts(text, placed.peer_ip, call.port), placed


def test_an_address_of_two_identities_opens_what_both_may() -> None:
    both = {**WORKLOADS, SpiffeId.parse("spiffe://corp.test/ns/ops/sa/twin"): Workload(addresses=("10.77.0.2",))}
    rule = {"id": "r", "effect": "allow", "from": [CART]}
    text = dict(compile_nftables(trees.tree([rule]), TD, both).files)["limen.nft"]
    assert not accepts(text, "10.77.0.2", 8080)


def test_a_caller_without_an_address_is_left_out_by_name() -> None:
    found = compile_nftables(trees.tree([{"id": "r", "effect": "allow", "from": [CART]}]), TD, {})
    named = [str(item.facts["what"]) for item in found.findings["db"] if item.code == "LM2513"]
    assert named == [CART, "db"]


needs_nft = needs("nft", "ip")


@contextlib.contextmanager
def namespaces(*names: str):
    made = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            made.append(name)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def inside(name: str, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    words = ["ip", "netns", "exec", name, *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=200, check=check)


@pytest.mark.root
@pytest.mark.system
@needs_nft
def test_nft_takes_the_table_twice_and_packets_of_callers_that_are_not_allowed_are_dropped(tmp_path) -> None:
    rules = [{"id": "r", "effect": "allow", "from": [CART], "to": [{"ports": [8080]}]}]
    tree = trees.tree(rules, ports=((8080, "tcp"), (5432, "tcp")))
    file = tmp_path / "limen.nft"
    file.write_text(dict(compile_nftables(tree, TD, WORKLOADS).files)["limen.nft"])
    names = [f"limen-x-{name}-{os.getpid()}" for name in ("db", "cart", "web")]
    with namespaces(*names):
        db, cart, web = names
        # 2222 is none of the service's ports: the table leaves it as it was
        expected = {
            (cart, 8080): True, (cart, 5432): False, (cart, 2222): True,
            (web, 8080): False, (web, 5432): False, (web, 2222): True,
        }  # fmt: skip
        inside(db, "ip", "link", "add", "br0", "type", "bridge", check=True)
        inside(db, "ip", "addr", "add", "10.77.0.1/24", "dev", "br0", check=True)
        for link in ("br0", "lo"):
            inside(db, "ip", "link", "set", link, "up", check=True)
        for place, caller in enumerate((cart, web)):
            inside(
                db,
                "ip",
                "link",
                "add",
                f"v{place}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                caller,
                check=True,
            )
            inside(db, "ip", "link", "set", f"v{place}", "master", "br0", "up", check=True)
            inside(caller, "ip", "addr", "add", f"10.77.0.{place + 2}/24", "dev", "eth0", check=True)
            inside(caller, "ip", "link", "set", "eth0", "up", check=True)
        for _ in range(2):  # applied again it replaces itself
            assert inside(db, "nft", "-c", "-f", str(file)).returncode == 0
            assert inside(db, "nft", "-f", str(file)).returncode == 0
        listen = (
            "import socket,sys\n"
            "found=[]\n"
            "for port in (8080, 5432, 2222):\n"
            "    one=socket.socket(); one.bind(('10.77.0.1', port)); one.listen(); found.append(one)\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        server = subprocess.Popen(
            ["ip", "netns", "exec", db, "python3", "-c", listen],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            dial = (
                "import socket,sys; socket.create_connection(('10.77.0.1', int(sys.argv[1])), timeout=int(sys.argv[2]))"
            )
            # what is let through may take its time; what is dropped is waited for in vain
            answers = {
                (caller, port): inside(caller, "python3", "-c", dial, str(port), "60" if is_open else "2").returncode
                == 0
                for (caller, port), is_open in expected.items()
            }
        finally:
            server.stdin.close()
            server.wait(timeout=100)
            server.stdout.close()
    assert answers == expected
