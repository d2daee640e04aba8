"""Pushes a policy set to a running OPA by its REST API, and asks it afterwards whether it decides as Limen does.

Data first, then the modules: a module that reads data of another form denies, so that nothing in between allows.
OPA's own authentication is the user's: a bearer token, a client certificate, a CA.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import pathlib
import urllib.parse
from collections.abc import Iterator

import requests
from opa_client import OpaClient
from opa_client.errors import RegoParseError

from limen.decisions import DecisionError, decision_from_json, decision_to_json
from limen.opa import in_turn
from mesh.problems import Conflict, Invalid, Unavailable
from mesh.request import Request
from policyengine.compile.rego import DATA_PATH, RULES_FOLDER, Program
from policyengine.customrules import PATIENT_S, with_custom_rules
from policyengine.decide import Index
from policyengine.inputdoc import input_of
from policyengine.model import PolicySet
from policyengine.probes import batches, probes_of
from policyengine.rows import request_to_json

TIMEOUT_S = 30.0
PROBES = 2000
_BATCH = 100
_ERRORS = (
    requests.exceptions.RequestException,
    RegoParseError,
    # what the client makes of an answer in a form that it did not expect
    ValueError,
    KeyError,
    AttributeError,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running OPA: its address, and what it wants to see. ``ca`` is a PEM file, for an authority of one's own."""

    url: str
    token: str | None = dataclasses.field(default=None, repr=False)
    ca: pathlib.Path | None = None
    certificate: tuple[pathlib.Path, pathlib.Path] | None = None


@contextlib.contextmanager
def connect(target: Target) -> Iterator[OpaClient]:
    """A client of an OPA.

    Raises Invalid LM2614 for an address that is none, or one that would carry a token in the clear.
    """
    try:
        parts = urllib.parse.urlsplit(target.url)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise Invalid("LM2614", url=target.url[:200], reason="it cannot be read") from err
    if parts.scheme not in {"http", "https"} or not host or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise Invalid("LM2614", url=target.url[:200], reason="it is http(s)://HOST[:PORT]")
    is_tls = parts.scheme == "https"
    if target.token is not None and not is_tls and host not in {"127.0.0.1", "::1", "localhost"}:
        raise Invalid("LM2614", url=target.url[:200], reason="a token goes over https, or to this host")
    client = OpaClient(
        host=f"[{host}]" if ":" in host else host,
        port=port or (443 if is_tls else 8181),
        ssl=(str(target.ca) if target.ca else True) if is_tls else False,
        cert=None if target.certificate is None else tuple(str(path) for path in target.certificate),
        token=target.token,
        retries=0,
        timeout=TIMEOUT_S,
    )
    try:
        yield client
    finally:
        client.close_connection()


def push(client: OpaClient, program: Program, url: str) -> None:
    """Give an OPA the data and the modules.

    Raises Unavailable LM2615 with what it says against them.
    """
    with _said(url):
        client.update_or_create_data(program.release, "/".join(DATA_PATH))
        # what an earlier push left would define rules a second time
        for name in client.get_policies_list():
            if name.startswith(f"{RULES_FOLDER}/") and name not in program.modules:
                client.delete_policy(name)
        in_turn(
            program.modules, lambda name, text: client.update_policy_from_string(text, name, rego_compat=False),
            RegoParseError,
        )  # fmt: skip


def compare(client: OpaClient, policies: PolicySet, snapshot: str, now: dt.datetime, url: str) -> int:
    """Ask an OPA about probes; returns how many there were.

    Raises Conflict LM2616 with the first request that it decides otherwise, Unavailable LM2615.
    """
    probes = probes_of(policies, now, PROBES)
    with with_custom_rules(policies, deadline_s=PATIENT_S) as evaluated:
        index = Index(evaluated, snapshot)
        for batch in batches(probes, _BATCH):
            with _said(url):
                documents = [input_of(request) for request in batch]
                found = client.query_rule({"batch": documents}, "limen.batch", "decisions").get("result")
            if not isinstance(found, list) or len(found) != len(batch):
                raise Unavailable("LM2615", url=url, reason="it gives no decisions")
            for request, answer in zip(batch, found, strict=True):
                _same(index, request, answer, url)
    return len(probes)


def _same(index: Index, request: Request, answer: object, url: str) -> None:
    expected = index.decide(request)
    try:
        if decision_from_json(answer) == expected:
            return
    except DecisionError:
        pass
    raise Conflict(
        "LM2616",
        url=url,
        request=request_to_json(request),
        expected=decision_to_json(expected)["decision"],
        found=answer.get("decision") if isinstance(answer, dict) else None,
    )


@contextlib.contextmanager
def _said(url: str) -> Iterator[None]:
    """Turn what the client raises into what people read."""
    try:
        yield
    except _ERRORS as err:
        raise Unavailable("LM2615", url=url, reason=str(err)[:500] or type(err).__name__) from err
