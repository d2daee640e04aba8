"""Federation with other trust domains (SPIFFE_Federation.md): what a relationship is, and when to ask again.

A relationship is configured in full by a person: nothing is inferred from a URL and no profile falls back to another
(F-3). Its bundle is a value of its own and is never merged with another's (F-16). Pure: fetching, storing and
telling the validators are in `limen.bundlefetch`, `ca.federationstore` and `limen.federations`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import urllib.parse
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from mesh.bundle import DEFAULT_REFRESH_HINT_S, TrustBundle, parse_bundle
from mesh.certpath import read_pem
from mesh.problems import Conflict, Forbidden, Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError, TrustDomain
from mesh.x509svid import SvidError, VerifiedSvid, verify_x509_svid

WELL_KNOWN = "/.well-known/spiffe-bundle"
MIN_REFRESH_S = 5
MAX_REFRESH_S = 86_400
MAX_URL = 2048
_JITTER = 0.1


class Profile(enum.StrEnum):
    """How a bundle endpoint proves that it is the right one (§5.2)."""

    HTTPS_WEB = "https_web"
    HTTPS_SPIFFE = "https_spiffe"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """One trust domain whose identities are to be believed here. ``web_roots`` is PEM; empty means the host's own."""

    trust_domain: TrustDomain
    url: str
    profile: Profile
    endpoint_id: SpiffeId | None = None
    web_roots: str = ""

    @property
    def is_self_serving(self) -> bool:
        """Whether the endpoint proves itself by the very bundle that it serves (F-13)."""
        return self.endpoint_id is not None and self.endpoint_id.trust_domain == self.trust_domain


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a relationship stands: the last good bundle, and how the last polls went."""

    bundle: TrustBundle | None = None
    fetched: dt.datetime | None = None
    tried: dt.datetime | None = None
    next_poll: dt.datetime
    failures: int = 0
    code: str = ""
    reason: str = ""

    def age(self, now: dt.datetime) -> dt.timedelta | None:
        """How long ago the bundle was last confirmed, None when it never was."""
        return None if self.fetched is None else now - self.fetched


def relate(
    own: TrustDomain, *, trust_domain: str, url: str, profile: str, endpoint_id: str | None = None, web_roots: str = ""
) -> Relationship:
    """Read what somebody configured.

    1. The trust domain is another one, and named; it is not read from the URL (F-3).
    2. The URL is https with a host, and without userinfo (F-4).
    3. https_web takes no parameter but, if wanted, roots of its own (F-5); https_spiffe takes the endpoint's SPIFFE ID
       and nothing that would let a web certificate pass in its place (F-11).

    Raises Invalid LM1500 for (1), LM1501 for (2), LM1502 for (3).
    """
    # (1)
    try:
        domain = TrustDomain.parse(trust_domain)
    except SpiffeIdError as err:
        raise Invalid("LM1500", given=trust_domain[:300], reason=str(err)) from err
    if domain == own:
        raise Invalid("LM1500", given=trust_domain, reason="it is this server's own")
    # (2)
    check_url(url)
    # (3)
    if profile not in set(Profile):
        raise Invalid("LM1502", profile=profile[:80], reason="the profiles are https_web and https_spiffe")
    chosen = Profile(profile)
    if chosen is Profile.HTTPS_WEB:
        if endpoint_id is not None:
            raise Invalid("LM1502", profile=profile, reason="an endpoint's SPIFFE ID belongs to https_spiffe")
        _check_roots(web_roots)
        return Relationship(trust_domain=domain, url=url, profile=chosen, web_roots=web_roots)
    if web_roots:
        raise Invalid("LM1502", profile=profile, reason="roots for web certificates belong to https_web")
    if endpoint_id is None:
        raise Invalid("LM1502", profile=profile, reason="it takes the endpoint's SPIFFE ID")
    try:
        named = SpiffeId.parse(endpoint_id)
    except SpiffeIdError as err:
        raise Invalid("LM1502", profile=profile, reason=f"the endpoint's SPIFFE ID: {err}") from err
    if not named.path:
        raise Invalid("LM1502", profile=profile, reason="an endpoint's SPIFFE ID has a path")
    return Relationship(trust_domain=domain, url=url, profile=chosen, endpoint_id=named)


def check_url(url: str) -> tuple[str, int, str]:
    """Read a bundle endpoint's URL: host, port and request target (F-4).

    Raises Invalid LM1501.
    """
    shown = url[:300]
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or any(char in url for char in ' \\"<>'):
        raise Invalid("LM1501", url=shown, reason="it is short, and ASCII without spaces")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise Invalid("LM1501", url=shown, reason="its host or port cannot be read") from err
    if parts.scheme != "https":
        raise Invalid("LM1501", url=shown, reason="its scheme is https")
    if "@" in parts.netloc:
        raise Invalid("LM1501", url=shown.split("@", 1)[-1], reason="it holds no user name or password")
    if not host or port == 0:
        raise Invalid("LM1501", url=shown, reason="it names a host")
    if parts.fragment:
        raise Invalid("LM1501", url=shown, reason="it has no fragment")
    target = parts.path or "/"
    return host, port or 443, f"{target}?{parts.query}" if parts.query else target


def follow(url: str, location: str) -> str:
    """Where a redirect leads: a URL that keeps the same rules (F-10).

    Raises Invalid LM1501.
    """
    try:
        found = urllib.parse.urljoin(url, location)
    except ValueError as err:
        raise Invalid("LM1501", url=location[:300], reason="a redirect leads nowhere") from err
    check_url(found)
    return found


def first_bundle(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    """Read the bundle that a person brings: a SPIFFE document, or certificates as PEM (F-11).

    Raises Invalid LM1001, LM1505.
    """
    if b"-----BEGIN" not in data:
        found = parse_bundle(trust_domain, data)
    else:
        try:
            listed = read_pem(data)
        except ValueError as err:
            raise Invalid("LM1505", trust_domain=str(trust_domain), reason="its PEM cannot be read") from err
        ders = tuple(dict.fromkeys(item.public_bytes(Encoding.DER) for item in listed))
        found = TrustBundle(trust_domain=trust_domain, x509_authorities=ders)
    if not found.x509_authorities and not found.jwt_authorities:
        raise Invalid("LM1505", trust_domain=str(trust_domain), reason="it holds no key that can be used")
    return found


def verifying_bundle(
    relationship: Relationship, own: TrustBundle, held: Mapping[TrustDomain, TrustBundle]
) -> TrustBundle:
    """The bundle that proves an https_spiffe endpoint.

    1. A self-serving endpoint is proved by the LATEST bundle that is held of its domain: its root may rotate (F-13).
    2. Any other endpoint is proved by the bundle of its own domain: ours, or that of a relationship of its own (F-11).

    Raises Forbidden LM1511 when there is none.
    """
    assert relationship.endpoint_id is not None
    domain = relationship.endpoint_id.trust_domain
    # (1), (2)
    found = own if domain == own.trust_domain else held.get(domain)
    if found is None or not found.x509_authorities:
        raise Forbidden("LM1511", trust_domain=str(relationship.trust_domain), of=str(domain))
    return found


def check_endpoint(
    chain: Sequence[bytes], relationship: Relationship, bundle: TrustBundle, now: dt.datetime
) -> VerifiedSvid:
    """Check what an https_spiffe endpoint shows: a valid X.509-SVID of exactly the configured SPIFFE ID (F-12).

    Raises SvidError as the verifier does, Forbidden LM1510 for another identity.
    """
    try:
        found = verify_x509_svid(chain, {bundle.trust_domain: bundle}, now)
    except SvidError as err:
        expected = str(relationship.endpoint_id)
        raise Forbidden("LM1510", url=relationship.url, expected=expected, found=f"{err.code} {err.message}") from err
    if found.spiffe_id != relationship.endpoint_id:
        shown = str(found.spiffe_id)
        raise Forbidden("LM1510", url=relationship.url, expected=str(relationship.endpoint_id), found=shown)
    return found


def accept(held: TrustBundle | None, fetched: TrustBundle) -> bool:
    """Whether a fetched bundle brings something new; what must not replace it is refused (F-15, B-3, B-4).

    1. Without a held bundle, ANY document that parsed is taken. An empty one is taken too: it revokes everything (B-8).
    2. A bundle with the same keys is no news, whatever its number, unless the number went back.
    3. A lower sequence number than the held one is a roll-back.
    4. Other keys under the same number, or under none where the held one has a number, cannot be put in order.

    Raises Conflict LM1506 for (3), LM1507 for (4).
    """
    # (1)
    if held is None:
        return True
    domain = str(fetched.trust_domain)
    # (3)
    if held.sequence is not None and fetched.sequence is not None and fetched.sequence < held.sequence:
        raise Conflict("LM1506", trust_domain=domain, sequence=fetched.sequence, held=held.sequence)
    # (2)
    if fetched.digest == held.digest:
        # a document that lost its number must not make the next one unordered
        return fetched != held and (fetched.sequence is not None or held.sequence is None)
    # (4)
    if held.sequence is not None and (fetched.sequence is None or fetched.sequence == held.sequence):
        raise Conflict("LM1507", trust_domain=domain, held=held.sequence)
    return True


def interval(bundle: TrustBundle | None) -> dt.timedelta:
    """How often to poll: at the bundle's hint, 5 minutes without one (F-15), within what either side can bear."""
    hint = DEFAULT_REFRESH_HINT_S if bundle is None else bundle.refresh_seconds
    return dt.timedelta(seconds=min(max(hint, MIN_REFRESH_S), MAX_REFRESH_S))


def after(
    standing: Standing, now: dt.datetime, *, chance: float, bundle: TrustBundle | None, code: str = "", reason: str = ""
) -> Standing:
    """How a relationship stands after a poll; ``code`` says why it failed, ``chance`` is in [0, 1).

    Both a success and a failure wait for the next interval (F-15), a tenth shorter or longer, so that those who began
    together do not go on together. A failure keeps the last good bundle.
    """
    kept = standing.bundle if code else bundle
    wait = interval(kept) * (1 + _JITTER * (2 * chance - 1))
    return Standing(
        bundle=kept,
        fetched=standing.fetched if code else now,
        tried=now,
        next_poll=now + wait,
        failures=standing.failures + 1 if code else 0,
        code=code,
        reason=reason,
    )


def is_stale(standing: Standing, now: dt.datetime) -> bool:
    """Whether the bundle was not confirmed for three intervals, or never: a rotation may have been missed."""
    age = standing.age(now)
    return age is None or age > 3 * interval(standing.bundle)


def _check_roots(text: str) -> None:
    if not text:
        return
    try:
        read_pem(text.encode())
    except ValueError as err:
        raise Invalid("LM1502", profile="https_web", reason="its roots are certificates in PEM") from err
