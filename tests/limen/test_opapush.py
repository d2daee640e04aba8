"""Pushing into a running OPA, and seeing afterwards whether it decides as Limen does."""

import contextlib
import dataclasses
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from limen.opa import find_opa
from limen.opapush import Target, compare, connect, push
from mesh.problems import Conflict, Invalid, Unavailable
from policyengine.compile.rego import MODULE, compile_rego
from policyengine.model import RegoModule
from tests.policyengine.corners import NOW, allow, deny, tree
from tests.ports import free_port
from tests.tools import require_opa

POLICIES = tree(app=[allow(), deny(to=[{"paths": ["/admin/**"]}])])


@contextlib.contextmanager
def opa_on_a_port(*arguments: str) -> Iterator[str]:
    require_opa()
    port = free_port()
    command = [find_opa(), "run", "--server", "--disable-telemetry", "--log-level", "error", *arguments]
    with subprocess.Popen([*command, "--addr", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 100
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert process.poll() is None
                assert time.monotonic() < end
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.peer
def test_push_and_compare() -> None:
    with opa_on_a_port() as url, connect(Target(url=url)) as client:
        push(client, compile_rego(POLICIES, "s"), url)
        assert compare(client, POLICIES, "s", NOW, url) > 10
        # the next version replaces it
        push(client, compile_rego(tree(), "t"), url)
        assert compare(client, tree(), "t", NOW, url) > 5


@pytest.mark.peer
def test_an_OPA_that_decides_otherwise_is_found_out() -> None:
    with opa_on_a_port() as url, connect(Target(url=url)) as client:
        push(client, compile_rego(POLICIES, "s"), url)
        client.update_policy_from_string("package limen.authz\n\ndecision := {}\n", MODULE, rego_compat=False)
        with pytest.raises(Conflict, match="LM2616"):
            compare(client, POLICIES, "s", NOW, url)


@pytest.mark.peer
def test_OPAs_own_authentication(tmp_path: pathlib.Path) -> None:
    (tmp_path / "system.rego").write_text(
        'package system.authz\n\ndefault allow := false\n\nallow if input.identity == "s3cret"\n', "utf-8"
    )
    arguments = ("--authentication", "token", "--authorization", "basic", str(tmp_path / "system.rego"))
    with opa_on_a_port(*arguments) as url:
        with connect(Target(url=url)) as client, pytest.raises(Unavailable, match="LM2615"):
            push(client, compile_rego(POLICIES, "s"), url)
        with connect(Target(url=url, token="s3cret")) as client:
            push(client, compile_rego(POLICIES, "s"), url)


@pytest.mark.parametrize(
    "url",
    ["opa", "ftp://opa", "http://opa/v1", "http://user@opa", "http://[::1", "http://opa:99999"],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(Invalid, match="LM2614"), connect(Target(url=url)):
        pass


def test_a_token_does_not_go_in_the_clear() -> None:
    with pytest.raises(Invalid, match="LM2614"), connect(Target(url="http://opa.example", token="t")):
        pass
    assert "t0ken" not in repr(Target(url="http://opa.example", token="t0ken"))


def test_nobody_listens() -> None:
    url = "http://127.0.0.1:1"
    with connect(Target(url=url)) as client, pytest.raises(Unavailable, match="LM2615"):
        push(client, compile_rego(POLICIES, "s"), url)


@pytest.mark.peer
def test_custom_rules_are_pushed_in_turn_and_forgotten_with_their_files() -> None:
    calling = RegoModule(
        "a.rego", "package shop\n\ndefault extra := false\n\nextra if data.shop.lib.is_read(input.method)\n"
    )
    called = RegoModule("b/lib.rego", 'package shop.lib\n\nis_read(method) if method in {"GET", "HEAD"}\n')
    policies = dataclasses.replace(tree(app=[allow(when={"rego": "data.shop.extra"})]), rego=(calling, called))
    with opa_on_a_port() as url, connect(Target(url=url)) as client:
        push(client, compile_rego(policies, "s"), url)
        assert compare(client, policies, "s", NOW, url) > 5
        renamed = dataclasses.replace(policies, rego=(dataclasses.replace(calling, path="c.rego"), called))
        push(client, compile_rego(renamed, "t"), url)
        assert sorted(client.get_policies_list()) == sorted(compile_rego(renamed, "t").modules)
