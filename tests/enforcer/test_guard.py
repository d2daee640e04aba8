import os
import shutil
import socket
import subprocess
import sys

import pytest

from enforcer import guard
from enforcer.guard import Guarded, table
from mesh.problems import Unavailable

ITEM = Guarded(app_port=18980, sidecar_uid=61184, listener=("127.0.0.2", 18980))


def test_the_rules_name_port_and_user_and_let_the_listener_pass() -> None:
    text = table("limen_x", [ITEM])
    assert text.index("ip daddr 127.0.0.2 tcp dport 18980 accept") < text.index("meta skuid != 61184")
    assert 'iifname != "lo" tcp dport 18980 drop' in text
    assert text.splitlines()[1] == "delete table inet limen_x"
    assert "ip6 daddr ::1" in table("limen_x", [Guarded(app_port=1, sidecar_uid=2, listener=("::1", 1))])


def test_what_is_left_out_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        assert "root" in guard.left_out()
        return
    monkeypatch.setenv("PATH", "/none")
    assert "nft" in guard.left_out()
    with pytest.raises(Unavailable, match="LM3702"):
        guard.apply("limen_x", [ITEM])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="packet filters take root and nft")
def test_only_the_sidecars_user_reaches_the_application() -> None:
    def reached(uid: int) -> bool:
        program = (
            f"import os, socket; 'x'.encode('idna'); os.setresuid({uid}, {uid}, {uid});"
            f"socket.create_connection(('127.0.0.1', {ITEM.app_port}), timeout=5)"
        )
        done = subprocess.run([sys.executable, "-S", "-c", program], check=False, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    with socket.create_server(("127.0.0.1", ITEM.app_port)):
        assert reached(0)
        guard.apply("limen_test", [ITEM])
        try:
            assert reached(ITEM.sidecar_uid)
            assert not reached(0)
            assert not reached(61000)
        finally:
            guard.remove("limen_test")
        guard.remove("limen_test")
        assert reached(0)
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert "limen_test" not in listed


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nft") is None, reason="packet filters take root and nft")
def test_rules_that_the_kernel_refuses_are_a_problem() -> None:
    with pytest.raises(Unavailable, match="LM3702"):
        guard.apply("limen test; flush ruleset", [ITEM])
