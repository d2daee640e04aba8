import os
import pathlib
import socket
import tempfile

import pytest

from enforcer.runtime.options import USUAL, Options, Place, places
from mesh.problems import Invalid

GOOD = "url=https://127.0.0.1:10250,ca=/a,token=/t"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([], USUAL["docker"], id="nothing-is-auto"),
        pytest.param(["auto"], USUAL["docker"], id="auto"),
        pytest.param(["none"], (), id="none"),
        pytest.param(["/a.sock"], ("/a.sock",), id="a-path"),
        pytest.param(["unix:///a.sock"], ("/a.sock",), id="a-url"),
        pytest.param(["/a.sock", "auto"], ("/a.sock", *USUAL["docker"]), id="both"),
        pytest.param(["/a.sock", "/a.sock"], ("/a.sock",), id="once"),
    ],
)
def test_sockets_are_named_found_or_left_out(given: list[str], expected: tuple[str, ...]) -> None:
    assert Options.parse(given, ["none"]).docker == expected


def test_runtimes_and_kubernetes_are_asked_in_order() -> None:
    found = Options.parse(["/d"], ["/c"], GOOD).containers()
    assert [runtime.source for runtime in found.runtimes] == ["docker at /d", "cri at /c"]
    assert found.pods is not None
    assert found.pods.source == "kubelet at https://127.0.0.1:10250"
    assert Options.parse([], [], None, GOOD + ",name=n").cluster is not None
    assert Options().containers().pods is None


@pytest.mark.parametrize("given", [["a.sock"], ["tcp://h:1"], ["none", "/a"], ["/" + "a" * 107], ["/a\n"], [""]])
def test_a_socket_is_an_absolute_path(given: list[str]) -> None:
    with pytest.raises(Invalid) as caught:
        Options.parse(given, [])
    assert caught.value.code == "LM3475"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "https://127.0.0.1:10250",
        "url=http://127.0.0.1:10255,ca=/a,token=/t",
        "url=https://127.0.0.1:10250,token=/t",
        "url=https://127.0.0.1:10250,ca=/a",
        "url=https://127.0.0.1:10250,ca=/a,cert=/c",
        GOOD + ",cert=/c,key=/k",
        GOOD + ",token=/u",
        GOOD + ",insecure=1",
        "url=https://127.0.0.1:10250,ca=a,token=/t",
        "url=https://u@h:1,ca=/a,token=/t",
        "url=https://h:1/pods,ca=/a,token=/t",
        "url=https://h:99999,ca=/a,token=/t",
        "url=https://[h,ca=/a,token=/t",
        GOOD + ",name=a b",
    ],
)
def test_kubernetes_is_named_with_all_that_proves_it(given: str) -> None:
    for pair in ((given, None), (None, given)):
        with pytest.raises(Invalid) as caught:
            Options.parse([], [], *pair)
        assert caught.value.code == "LM3475"


def test_a_kubelet_or_an_api_server_is_named_and_not_both() -> None:
    with pytest.raises(Invalid):
        Options.parse([], [], GOOD, GOOD)


def test_what_stands_at_the_sockets_is_told() -> None:
    with tempfile.TemporaryDirectory(dir="/run" if os.geteuid() == 0 else None) as name:
        path = pathlib.Path(name, "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen()
            path.chmod(0o600)
            assert places([("docker", str(path))]) == [Place(kind="docker", path=str(path))]
            path.chmod(0o666)
            codes = [found.code for found in places([("docker", str(path)), ("cri", f"{name}/n")])]
            assert codes == ["LM3474", "LM3472"]
