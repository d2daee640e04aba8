"""Reads `attestors.yaml`: which proofs of other people let a node in. Strict, all findings at once, each at its place.

Files that it names are read through a function that the caller gives; nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import urllib.parse
from collections.abc import Callable

from ca.attestation import k8s, oidc, tpm, x509pop
from ca.attestation.certificates import read_certificates
from ca.attestation.evidence import FIELD
from mesh.jwks import ALGORITHMS
from mesh.jwtproof import MAX_LIFE, JwtTrust
from mesh.problems import Diagnostic, Severity, Span
from mesh.yamlio import Node, compose_documents

Attestor = x509pop.X509Pop | tpm.Tpm | k8s.K8s | oidc.Oidc
Read = Callable[[str], bytes]
_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}\Z")
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")
_CLAIM = re.compile(r"[A-Za-z0-9_-]{1,60}\Z")
_COMMON = ("name", "type", "node")
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # type: (needed, optional)
    "x509pop": (("ca",), ()),
    "tpm": ((), ("ek_ca", "ek_hashes")),
    "k8s": (("issuer", "audience", "jwks", "cluster", "service_accounts"), ("jwks_ca", "jwks_token", "algorithms")),
    "oidc": (("issuer", "audience", "jwks", "claims"), ("jwks_ca", "jwks_token", "algorithms", "facts")),
}
# of an attestor whose type is not known, the fields of any are
_ANY = tuple(dict.fromkeys((*_COMMON, *(name for both in _FIELDS.values() for names in both for name in names))))
RESERVED = ("node", "join-token", "limen")


def load_attestors(text: str, file: str, read: Read) -> tuple[tuple[Attestor, ...], list[Diagnostic]]:
    """Read the attestors of a file; ``read`` gives the bytes of a file that it names, or raises OSError.

    Returns what could be read and every finding; with an error among them, none must be used.
    """
    documents, found = compose_documents(text, file)
    attestors: list[Attestor] = []
    for document in documents:
        for node in _listed(document, found):
            made = _Reading(node, found, read).attestor()
            if made is not None:
                if made.name in {item.name for item in attestors}:
                    found.append(_finding("LM1252", node.span, name=made.name))
                attestors.append(made)
    return tuple(attestors), sorted(found, key=_place)


def has_errors(found: list[Diagnostic]) -> bool:
    """Whether a finding forbids using the attestors."""
    return any(item.severity is Severity.ERROR for item in found)


def _place(item: Diagnostic) -> tuple[int, int]:
    return (item.span.line, item.span.column) if item.span else (0, 0)


def _finding(code: str, span: Span, **facts: object) -> Diagnostic:
    return Diagnostic(code=code, span=span, facts=facts)


def _unknown(key: Node, known: tuple[str, ...]) -> Diagnostic:
    near = difflib.get_close_matches(str(key.scalar), known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(known)
    return _finding("LM1251", key.span, given=key.scalar, hint=hint)


def _listed(document: Node, found: list[Diagnostic]) -> tuple[Node, ...]:
    if document.kind != "map":
        found.append(_finding("LM1250", document.span, what="the file", kind="a map with `attestors`"))
        return ()
    found.extend(_unknown(key, ("attestors",)) for key, _ in document.pairs if key.scalar != "attestors")
    listed = document.get("attestors")
    if listed is None or listed.kind == "null":
        return ()
    if listed.kind != "list":
        found.append(_finding("LM1250", listed.span, what="`attestors`", kind="a list"))
        return ()
    return listed.items


@dataclasses.dataclass(slots=True)
class _Reading:
    """One attestor while it is read: its place, all findings so far, and how to read files."""

    node: Node
    found: list[Diagnostic]
    read: Read

    def attestor(self) -> Attestor | None:
        """The attestor, None when something about it is wrong."""
        if self.node.kind != "map":
            self.found.append(_finding("LM1250", self.node.span, what="an attestor", kind="a map"))
            return None
        before = len(self.found)
        kind = self.text("type")
        if kind is not None and kind not in _FIELDS:
            near = difflib.get_close_matches(kind, _FIELDS, n=1)
            self.unfit("type", f"did you mean `{near[0]}`?" if near else "one of " + ", ".join(_FIELDS))
        needed, optional = _FIELDS.get(kind or "", ((), ()))
        self.found.extend(
            _finding("LM1253", self.node.span, field=field)
            for field in ("name", "type", *needed)
            if self.node.get(field) is None
        )
        known = (*_COMMON, *needed, *optional) if kind in _FIELDS else _ANY
        self.found.extend(_unknown(key, known) for key, _ in self.node.pairs if key.scalar not in known)
        name = self.text("name")
        if name is not None and (not _NAME.match(name) or name in RESERVED):
            self.unfit("name", "1 to 15 lower-case letters, digits and dashes, and not `node`, `join-token`, `limen`")
        if len(self.found) > before or name is None:
            return None
        made = {"x509pop": self.x509pop, "tpm": self.tpm, "k8s": self.k8s, "oidc": self.oidc}[str(kind)](name)
        return made if len(self.found) == before else None

    def x509pop(self, name: str) -> Attestor:
        """Read what an attestor by certificate has."""
        template = self.template(x509pop.FIELDS, x509pop.DEFAULT_NODE)
        return x509pop.X509Pop(name=name, node=template, authorities=self.certificates("ca"))

    def tpm(self, name: str) -> Attestor:
        """Read what an attestor by TPM has: authorities, hashes, or both."""
        hashes = []
        for text in self.texts("ek_hashes"):
            match = _HASH.match(text)
            if match is None:
                self.unfit("ek_hashes", "SHA-256 hashes of 64 lower-case hexadecimal digits")
            else:
                hashes.append(match.group(1))
        authorities = self.certificates("ek_ca")
        if self.node.get("ek_ca") is None and self.node.get("ek_hashes") is None:
            self.found.append(_finding("LM1253", self.node.span, field="ek_ca` or `ek_hashes"))
        template = self.template(tpm.FIELDS, tpm.DEFAULT_NODE)
        return tpm.Tpm(name=name, node=template, authorities=authorities, ek_hashes=frozenset(hashes))

    def k8s(self, name: str) -> Attestor:
        """Read what an attestor for a Kubernetes cluster has."""
        accounts = self.texts("service_accounts")
        if any(not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", item) for item in accounts):
            self.unfit("service_accounts", "a list of `NAMESPACE/NAME`")
        return k8s.K8s(
            name=name,
            node=self.template(k8s.FIELDS, k8s.DEFAULT_NODE),
            trust=self.trust(),
            keys=self.keys(),
            cluster=self.text("cluster") or "",
            service_accounts=accounts,
            keys_ca=self.file("jwks_ca"),
            keys_token=self.text("jwks_token") or "",
        )

    def oidc(self, name: str) -> Attestor:
        """Read what an attestor for a CI system's tokens has."""
        claims = self.node.get("claims")
        required = []
        if claims is None or claims.kind != "map" or not claims.pairs:
            self.unfit("claims", "a map of claims that is not empty: an issuer has other customers too")
        else:
            for key, value in claims.pairs:
                text = str(value.scalar)
                if not _CLAIM.match(str(key.scalar)):
                    self.found.append(_unknown(key, ("letters", "digits", "_", "-")))
                elif value.kind not in {"text", "int"} or text in {"", "*"} or "*" in text[:-1]:
                    self.found.append(
                        _finding("LM1254", value.span, field=key.scalar, reason="text, exact or with `*` at its end")
                    )
                required.append((str(key.scalar), text))
        facts = self.texts("facts")
        if any(not _CLAIM.match(item) for item in facts):
            self.unfit("facts", "a list of claims' names")
        fields = (*oidc.FIELDS, *(f"oidc-{item}" for item in facts))
        return oidc.Oidc(
            name=name,
            node=self.template(fields, oidc.DEFAULT_NODE),
            trust=self.trust(),
            keys=self.keys(),
            claims=tuple(required),
            facts=facts,
            keys_ca=self.file("jwks_ca"),
            keys_token=self.text("jwks_token") or "",
        )

    def trust(self) -> JwtTrust:
        """Whose tokens, for whom, with which algorithms."""
        algorithms = self.texts("algorithms") or ALGORITHMS
        if any(item not in ALGORITHMS for item in algorithms):
            self.unfit("algorithms", "a list of " + ", ".join(ALGORITHMS))
        return JwtTrust(
            issuer=self.text("issuer") or "",
            audiences=(self.text("audience") or "",),
            algorithms=tuple(algorithms),
            max_life=MAX_LIFE,
        )

    def keys(self) -> str:
        """Where the key set is: a file, or a URL that is fetched over TLS (or from this host itself)."""
        text = self.text("jwks") or ""
        if "://" in text:
            try:
                parts = urllib.parse.urlsplit(text)
                is_fit = bool(parts.hostname) and (parts.port is None or parts.port > 0)
            except ValueError:
                is_fit, parts = False, urllib.parse.urlsplit("")
            is_local = parts.hostname in {"127.0.0.1", "::1", "localhost"}
            if not is_fit or (parts.scheme != "https" and not (parts.scheme == "http" and is_local)):
                self.unfit("jwks", "a file, or an https:// URL")
        else:
            self.file("jwks")
        return text

    def template(self, fields: tuple[str, ...], default: str) -> str:
        """How the node is called."""
        text = self.text("node") or default
        names = FIELD.findall(text)
        for given in names:
            if given not in fields:
                near = difflib.get_close_matches(given, fields, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(fields)
                self.found.append(_finding("LM1255", self.span("node"), given=given, hint=hint))
        if not names or "{" in FIELD.sub("", text) or "}" in FIELD.sub("", text):
            self.unfit("node", "a template with at least one field, such as `" + default + "`")
        return text

    def certificates(self, name: str) -> tuple[bytes, ...]:
        """The certificates of a PEM file that is named."""
        data = self.file(name)
        if self.node.get(name) is None or not data:
            return ()
        try:
            return read_certificates(data)
        except ValueError:
            self.unfit(name, "a PEM file with certificates")
            return ()

    def file(self, name: str) -> bytes:
        """The bytes of a file that is named."""
        path = self.text(name)
        if path is None:
            return b""
        try:
            return self.read(path)
        except OSError as err:
            self.unfit(name, f"a file that can be read: {err.strerror or err}")
            return b""

    def text(self, name: str) -> str | None:
        """A field's text."""
        value = self.node.get(name)
        if value is None:
            return None
        if value.kind != "text" or value.scalar == "" or len(str(value.scalar)) > 2048:
            self.unfit(name, "text that is not empty")
            return None
        return str(value.scalar)

    def texts(self, name: str) -> tuple[str, ...]:
        """A field's list of texts."""
        value = self.node.get(name)
        if value is None:
            return ()
        if value.kind != "list" or not value.items or any(item.kind != "text" for item in value.items):
            self.unfit(name, "a list of texts that is not empty")
            return ()
        return tuple(str(item.scalar) for item in value.items)

    def unfit(self, name: str, reason: str) -> None:
        """Report a field's value."""
        self.found.append(_finding("LM1254", self.span(name), field=name, reason=reason))

    def span(self, name: str) -> Span:
        """Where a field stands."""
        value = self.node.get(name)
        return value.span if value is not None else self.node.span
