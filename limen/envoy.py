"""A real Envoy as an engine: started for one command with the matchers that an export writes, asked, and ended.

Every declared port of every service is a listener on a free port of loopback. What differs from the exported files
stands around the matcher: certificates of a throw-away CA in place of the agent's, an answer that names the rule in
place of the application, and the PROXY protocol, so that a request may come from the address that it names. Envoy's
`direct_source_ip` is the connection's own address, so the matcher reads `source_ip` here. What Envoy refuses by its
own checks, and what cannot be sent to it, is denied under a code that says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib.util
import ipaddress
import itertools
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping

from limen.envoywire import TIMEOUT_S, Authority, Caller, Reply, ask_http1, ask_http2
from limen.unixhttp import UnixConnection
from mesh.clock import SystemClock
from mesh.problems import NotFound, Unavailable
from mesh.request import Decision, Effect, Mode, Protocol, Request
from policyengine.compile import envoyfiles as files
from policyengine.compile.envoy import ports_of
from policyengine.compile.envoymatch import TYPE, Json
from policyengine.compile.export import Findings
from policyengine.model import PolicySet
from policyengine.reference import (
    ALLOWED_BY_RULE,
    AMBIGUOUS,
    DEFAULT_DENY,
    DENIED_BY_RULE,
    NO_IDENTITY,
    UNDECLARED_PORT,
    UNKNOWN_SERVICE,
)

FAILED, REFUSED_BY_ENVOY, NOT_SENT = "LM2651", "LM2652", "LM2653"
START_DEADLINE_S = 60.0
VALIDATE_DEADLINE_S = 120.0
_HERE = "127.0.0.1"
# HTTP/1.1 has no request without a Host; to rules, one that none of them names is like none
_NO_HOST = b"host-that-no-rule-names"
_CODES = frozenset((DEFAULT_DENY, NO_IDENTITY, AMBIGUOUS))
# of what is allowed the metadata name the rule, of what is denied the details
_META = "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%,%RESPONSE_CODE_DETAILS%"
_TCP_META = "%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)%,%CONNECTION_TERMINATION_DETAILS%"
_ANSWERED = ",direct_response"
_DENIED = re.compile(r"rbac_access_denied_matched_policy\[([^\]]*)\]")


def find_envoy() -> str:
    """The Envoy to use: what ENVOY_PATH names, else that of the extra `envoy`, else the one on PATH.

    Raises NotFound LM2650 when there is none.
    """
    named = os.environ.get("ENVOY_PATH")
    if not named:
        # by its file: whichever package wrote `envoy/__init__.py` last, the binary is beside it
        spec = importlib.util.find_spec("envoy")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            binary = pathlib.Path(folder) / "_bin" / "envoy"
            if binary.is_file() and os.access(binary, os.X_OK):
                return str(binary)
    found = shutil.which(named or "envoy")
    if found is None:
        raise NotFound("LM2650", name=named or "envoy")
    return found


class Envoy:
    """A running Envoy with the ports of a policy set. Use `running_envoy`."""

    def __init__(
        self, policies: PolicySet, snapshot: str, ports: Mapping[str, int], log: pathlib.Path, caller: Caller
    ) -> None:
        self._policies, self._snapshot, self._ports, self._log, self._caller = policies, snapshot, ports, log, caller
        self._number = 0
        self._numbers = itertools.cycle(range(1, 65_536))
        self._lines: dict[int, str] = {}
        self._read = 0

    def decide(self, request: Request) -> Decision:
        """What Envoy does with a request. Never raises: an Envoy that does not answer denies with LM2651."""
        service = self._policies.service_for(request.service)
        if service is None:
            return self._said(UNKNOWN_SERVICE)
        protocol = service.protocol_of(request.port)
        if protocol is None:
            return self._said(UNDECLARED_PORT)
        try:
            return self._decision(self.ask(service.name, request, protocol))
        except _NotSentError:
            return self._said(NOT_SENT)
        except ssl.SSLError:
            return self._said(NO_IDENTITY if request.source is None else FAILED)
        except (OSError, ValueError):  # the second: a certificate that cannot be made, an answer that is none
            return self._said(FAILED)

    def ask(self, service: str, request: Request, protocol: Protocol) -> Reply:
        """Send a request to a declared port.

        Raises OSError when Envoy does not answer.
        """
        if request.unknown or not (request.source or "").isascii():
            raise _NotSentError
        peer, uris = _peer(request.peer_ip), () if request.source is None else (request.source,)
        if protocol == "tcp":
            return self.connect(service, request.port, uris, peer)
        if request.method is None or request.path is None or request.protocol == "tcp":
            raise _NotSentError
        fields = [(_bytes(name, name=True), _bytes(value)) for name, value in request.headers]
        method, target = _bytes(request.method), _bytes(request.path)
        host = None if request.host is None else _bytes(request.host)
        if host is None and not any(name.lower() in {b"host", b":authority"} for name, _ in fields):
            host = _NO_HOST
        if protocol == "http":
            lines = [method + b" " + target + b" HTTP/1.1"]
            lines += [] if host is None else [b"Host: " + host]
            lines += [name + b": " + value for name, value in fields]
            return self.send(service, request.port, uris, peer, b"\r\n".join((*lines, b"", b"")))
        head = [(b":method", method), (b":scheme", b"https"), (b":path", target)]
        head += [] if host is None else [(b":authority", host)]
        found = [*head, *((name.lower(), value) for name, value in fields)]
        with self._connected(service, request.port, uris, peer, protocol) as connection:
            number = self._number
            reply = ask_http2(connection, found)
        if reply.status and not reply.rule:
            # an answer to a gRPC client, or to HEAD, has no body
            reply = dataclasses.replace(reply, rule=self._logged(number))
        return _of_rule(reply)

    def send(self, service: str, port: int, uris: tuple[str, ...], peer: str, raw: bytes) -> Reply:
        """Send the bytes of a request to an HTTP/1.1 port.

        Raises OSError when Envoy does not answer.
        """
        with self._connected(service, port, uris, peer, "http") as connection:
            return _of_rule(ask_http1(connection, raw))

    def connect(self, service: str, port: int, uris: tuple[str, ...], peer: str) -> Reply:
        """Say something on a connection; it comes back when the connection is allowed. The log names the rule.

        Raises OSError when Envoy does not answer.
        """
        with self._connected(service, port, uris, peer, "tcp") as connection:
            number = self._number
            try:
                connection.sendall(b"hello")
                is_allowed = connection.recv(64) == b"hello"
            except ConnectionError:
                is_allowed = False
        return Reply(status=200 if is_allowed else 403, rule=self._logged(number))

    def _connected(
        self, service: str, port: int, uris: tuple[str, ...], peer: str, protocol: Protocol
    ) -> contextlib.AbstractContextManager[ssl.SSLSocket]:
        """A connection under a number that the log will show; numbers come again, so older lines are left alone."""
        self._number = next(self._numbers)
        self._lines.clear()
        self._read = self._log.stat().st_size
        there = self._ports[f"{service}:{port}"]
        return self._caller.connected(there, uris, peer, self._number, protocol)

    def _logged(self, number: int) -> str:
        """The rule that the log names for a connection that has ended."""
        end = time.monotonic() + TIMEOUT_S
        while number not in self._lines:
            if time.monotonic() > end:
                raise TimeoutError
            with self._log.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode("ascii", "replace").splitlines():
                port, _, rule = line.partition(" ")
                self._lines[int(port)] = rule
            if number not in self._lines:
                time.sleep(0.002)  # Envoy writes its log every few milliseconds and tells nobody
        return self._lines.pop(number)

    def _decision(self, reply: Reply) -> Decision:
        """What the reply says, in the words of a decision."""
        effect = Effect.ALLOW if reply.status == 200 else Effect.DENY
        denied = _DENIED.search(reply.rule)
        name = denied[1] if denied is not None else reply.rule.partition(",")[0]
        words = name.split("/")
        if len(words) != 3 or (denied is None) != (effect is Effect.ALLOW):
            return self._said(name if name in _CODES else REFUSED_BY_ENVOY)
        tier, policy, rule = words
        return Decision(
            effect=effect, policy_effect=effect, mode=Mode.ENFORCE, snapshot=self._snapshot, tier=tier, policy=policy,
            rule=rule, code=ALLOWED_BY_RULE if effect is Effect.ALLOW else DENIED_BY_RULE,
        )  # fmt: skip

    def _said(self, code: str) -> Decision:
        return Decision(
            effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot=self._snapshot, tier="",
            policy="", rule="", code=code,
        )  # fmt: skip


def _of_rule(reply: Reply) -> Reply:
    """What happened to a request, whatever its status: a gRPC client is denied with 200."""
    if reply.rule.endswith(_ANSWERED):
        return dataclasses.replace(reply, status=200)
    return reply if reply.status != 200 else dataclasses.replace(reply, status=403)


class _NotSentError(Exception):
    """A request that nobody could send so."""


def _bytes(text: str, *, name: bool = False) -> bytes:
    """Text as it goes over the wire; what would end a line, or is no byte, is not sent."""
    try:
        found = text.encode("latin-1")
    except UnicodeEncodeError:
        raise _NotSentError from None
    if any(byte in b"\r\n" for byte in found) or (name and (not found or b":" in found)):
        raise _NotSentError
    return found


def _peer(text: str | None) -> str:
    """The address that a request comes from; one that names none comes from this host."""
    if text is None:
        return _HERE
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _NotSentError from None


def validate(name: str, text: str) -> None:
    """Have Envoy read a configuration without running it.

    Raises NotFound LM2650, and Unavailable LM2651 with what Envoy says against it.
    """
    program = find_envoy()
    with tempfile.TemporaryDirectory(prefix="limen-envoy-") as folder:
        file = pathlib.Path(folder) / name
        file.write_text(text, "utf-8")
        try:
            done = subprocess.run(  # noqa: S603  the user's own Envoy
                [program, "-c", str(file), "--mode", "validate", "-l", "critical"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=VALIDATE_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            raise Unavailable("LM2651", reason="it does not end reading the configuration") from err
    if done.returncode != 0:
        raise Unavailable("LM2651", reason=done.stderr.decode("utf-8", "replace").strip()[:500])


# ---------------------------------------------------------------------- starting


@contextlib.contextmanager
def running_envoy(policies: PolicySet, snapshot: str) -> Iterator[Envoy]:
    """Start an Envoy that only listens on loopback and on a socket that only this user reaches, and end it.

    Raises NotFound LM2650 and Unavailable LM2651 when it does not begin.
    """
    program = find_envoy()
    authority = Authority(SystemClock().now())
    with tempfile.TemporaryDirectory(prefix="limen-envoy-") as name:
        folder = pathlib.Path(name)
        admin, log, config, errors = (folder / word for word in ("admin.sock", "log", "envoy.json", "err"))
        log.touch()
        # Envoy reads no configuration from /proc; the folder is this user's, the key nobody's but this Envoy's
        config.write_text(json.dumps(_config(policies, authority, admin, log)), "utf-8")
        options = ["--use-dynamic-base-id", "--concurrency", "1", "-l", "critical", "--file-flush-interval-msec", "5"]
        with errors.open("wb") as err:
            process = subprocess.Popen(  # noqa: S603  the user's own Envoy
                [program, "-c", str(config), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        try:
            ports = _started(process, admin, errors)
            config.unlink()
            yield Envoy(policies, snapshot, ports, log, Caller(authority))
        finally:
            process.kill()
            process.wait()


def _config(policies: PolicySet, authority: Authority, admin: pathlib.Path, log: pathlib.Path) -> Json:
    certificate, key = authority.leaf("spiffe://limen.eval/envoy")
    common: Json = {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
        ],
        "validation_context": {"trusted_ca": {"inline_string": authority.pem}},
    }
    proxied = {"@type": f"{TYPE}envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}
    listeners = []
    for service in policies.services:
        for port in ports_of(policies, service, Findings(service.name)):
            # the PROXY protocol changes `source_ip` alone
            matcher = json.loads(json.dumps(port.matcher).replace("v3.DirectSourceIPInput", "v3.SourceIPInput"))
            more: Json = {"listener_filters": [{"name": "proxy", "typed_config": proxied}]}
            if port.protocol == "tcp":
                echo: Json = {
                    "name": "echo",
                    "typed_config": {"@type": f"{TYPE}envoy.extensions.filters.network.echo.v3.Echo"},
                }
                chain = files.tcp_chain("eval", matcher, echo, shadow_matcher=matcher)
                more["access_log"] = [_access_log(log, _TCP_META)]
            else:
                answer: Json = {"direct_response": {"status": 200, "body": {"inline_string": "yes"}}}
                # a connection that broke the protocol is closed at once: nobody here is late with an answer
                more_http: Json = {"local_reply_config": _replies(), "delayed_close_timeout": "0.01s"}
                if port.protocol == "grpc":
                    more_http["access_log"] = [_access_log(log, _META)]
                chain = files.http_chain("eval", port.protocol, matcher, answer, websocket=port.websocket, **more_http)
            transport = files.mutual_tls(port.protocol, common)
            name = f"{service.name}:{port.port}"
            listeners.append(files.listener(name, files.address(_HERE, 0), chain, transport, **more))
    return {
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": listeners},
        "layered_runtime": files.runtime(),
    }


def _access_log(log: pathlib.Path, said: str) -> Json:
    """A line for each connection or request, under the number that its PROXY line gave as a port."""
    line = f"%DOWNSTREAM_REMOTE_PORT% {said}\n"
    body = {
        "@type": f"{TYPE}envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(log),
        "log_format": {"text_format_source": {"inline_string": line}},
    }
    return {"name": "log", "typed_config": body}


def _replies() -> Json:
    """Every answer of Envoy's own names the rule, in a header and in its body."""
    every = {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 0, "runtime_key": "limen"}}}}
    header = {"header": {"key": "x-limen-rule", "value": _META}}
    return {
        "mappers": [{"filter": every, "headers_to_add": [header]}],
        "body_format": {"text_format_source": {"inline_string": f"%RESPONSE_CODE% {_META}"}},
    }


def _started(process: subprocess.Popen[bytes], admin: pathlib.Path, errors: pathlib.Path) -> dict[str, int]:
    """The port of each listener, once Envoy serves."""
    end = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < end:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(UnixConnection(admin, timeout=TIMEOUT_S)) as connection,
        ):
            connection.request("GET", "/ready")
            answer = connection.getresponse()
            if answer.read().strip() == b"LIVE":
                connection.request("GET", "/listeners?format=json")
                rows = json.loads(connection.getresponse().read()).get("listener_statuses", [])
                return {row["name"]: int(row["local_address"]["socket_address"]["port_value"]) for row in rows}
        time.sleep(0.01)
    reason = errors.read_text("utf-8", "replace").strip()[:500] or "it does not begin to listen"
    raise Unavailable("LM2651", reason=reason)
