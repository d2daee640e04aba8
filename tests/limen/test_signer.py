import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from cryptography.exceptions import InvalidSignature

from ca.keys import KeyAlgorithm, SigningKey, generate, private_to_der
from limen import signer
from limen.signerwire import KEY, PARTS, READY, pack, read, unpack, write
from mesh.problems import Invalid


@pytest.mark.parametrize("kind", [KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.RSA_2048, KeyAlgorithm.ML_DSA_65])
def test_it_signs_what_comes_with_the_key_that_came_last(kind: KeyAlgorithm) -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=signer.serve, args=[theirs])
    thread.start()
    assert read(ours) == (READY, b"")
    key = generate(kind)
    for found in (generate(KeyAlgorithm.P256), key):
        write(ours, KEY, private_to_der(found.key))
    write(ours, PARTS, pack([b"one", b"two"]))
    answer = read(ours)
    assert answer is not None
    assert answer[0] == PARTS
    for signature, part in zip(unpack(answer[1]), [b"one", b"two"], strict=True):
        key.verifier()(signature, part)
    ours.close()
    thread.join(100)
    assert not thread.is_alive()
    theirs.close()


@pytest.mark.parametrize(
    ("kind", "data"), [(PARTS, pack([b"x"])), (b"X", b""), (KEY, b"no key"), (READY, b"")], ids=str
)
def test_what_it_cannot_do_ends_it(kind: bytes, data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write(ours, kind, data)
        with pytest.raises(Invalid):
            signer.serve(theirs)


def test_a_signature_that_does_not_verify_is_never_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SigningKey, "signer", lambda self: lambda parts: [b"0\x06\x02\x01\x01\x02\x01\x01"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write(ours, KEY, private_to_der(generate(KeyAlgorithm.P256).key))
        write(ours, PARTS, pack([b"x"]))
        with pytest.raises(InvalidSignature):
            signer.serve(theirs)
        theirs.close()
        assert read(ours) == (READY, b"")
        assert read(ours) is None


@pytest.mark.system
def test_the_process_ends_when_the_server_hangs_up_and_cannot_be_read(tmp_path: pathlib.Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "limen.signer", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            cwd=tmp_path,
        )
    assert read(ours) == (READY, b"")
    # not dumpable: its files in /proc are root's, and a core file would be empty
    assert "Max core file size        0 " in pathlib.Path(f"/proc/{process.pid}/limits").read_text("ascii")
    ours.close()
    assert process.wait(100) == 0
