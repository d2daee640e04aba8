"""`limen identity authorities|rotate|taint|revoke|show|issue`: the keys that sign, and what they signed."""

from __future__ import annotations

import base64
import pathlib
import time
import urllib.parse
from typing import Any

import click

from limen import client
from limen.cli import context, render
from mesh.problems import Invalid, NotFound

KINDS = ("issuing", "root", "jwt")
_POLL_S = 0.2
MAX_TOKEN_S = 86400


def _named(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """A name as it was pasted, without what stands around it."""
    if not value.strip():
        raise click.BadParameter("it is empty", ctx, parameter)
    return value.strip()


@click.command()
@context.output_option("table", "json")
def authorities(output: str) -> None:
    """List the authorities, and when the next one ends."""
    found = client.call("GET", "/v1/authorities")
    if output == "json":
        render.data(found)
        return
    rows = [
        (row["id"], row["kind"], row["state"], row["not_after"], row["live_svids"], row["last_svid_ends"] or "-")
        for row in found["authorities"]
    ]
    render.table(rows, ("authority", "kind", "state", "ends", "live SVIDs", "last of them ends"))
    behind = ", ".join(found["agents_behind"])
    render.say(
        f"trust state {found['sequence']}, held by {found['agents'] - len(found['agents_behind'])} of "
        f"{found['agents']} agents" + (f"; behind: {behind}" if behind else "")
    )


@click.command()
@click.argument("kind", type=click.Choice(KINDS), default="issuing")
@click.option("--root", "is_root", is_flag=True, help="The same as `rotate root`.")
@click.option("--jwt", "is_jwt", is_flag=True, help="The same as `rotate jwt`.")
@click.option("--svids", is_flag=True, help="Keep the authorities: renew every workload's SVID.")
@click.option("--force", is_flag=True, help="Do not wait until every agent, and every OIDC client, has the new one.")
@click.option("--no-wait", is_flag=True, help="Return when it is prepared.")
@context.output_option("table", "json")
def rotate(*, kind: str, is_root: bool, is_jwt: bool, svids: bool, force: bool, no_wait: bool, output: str) -> None:
    """Replace a signing authority: prepared, reported by every agent, active.

    KIND is issuing (default), root (with a new issuing authority; cross-signed by the old root) or jwt. What the old
    one signed stays valid until it ends. A JWT authority of an OIDC issuer waits for its clients too, which keep keys
    for five minutes.
    """
    if svids:
        found = client.call("POST", "/v1/rotate")
        render.data(found) if output == "json" else render.line("every workload's SVID is being renewed")
        return
    kind = "root" if is_root else "jwt" if is_jwt else kind
    if output != "json":
        listed = client.call("GET", "/v1/authorities")["authorities"]
        for row in listed:
            if (row["kind"], row["state"]) == (kind, "active"):
                report_blast(row["blast"])
    begun = client.call("POST", "/v1/authorities/rotate", {"kind": kind, "force": force})
    found = {**begun, **client.call("GET", f"/v1/authorities/{begun['authority']}")}
    while not no_wait and found["state"] == "prepared":
        older = f"; OIDC clients may keep older keys until {found['signs_from']}" if found.get("signs_from") else ""
        told = found["agents"] - len(found["behind"])
        render.progress(f"prepared {found['id']}: {told} of {found['agents']} agents{older}")
        time.sleep(_POLL_S)
        found = {**begun, **client.call("GET", f"/v1/authorities/{begun['authority']}")}
    if output == "json":
        render.data(found)
    else:
        new, former = found.get("root") or found["id"], found.get("replaces_root") or found["replaces"]
        below = f"; {found['id']} signs below it" if new != found["id"] else ""
        render.line(f"authority {new} ({kind}) is {found['state']}; it replaces {former}{below}")
        render.say(f"undo: `limen identity taint {new}` after another `limen identity rotate {kind}`")


@click.command()
@click.argument("authority", callback=_named)
@click.option("--reason", default="", help="Why, for the records.")
@click.option("--dry-run", is_flag=True, help="Only say what it would mean.")
@context.output_option("table", "json")
def taint(*, authority: str, reason: str, dry_run: bool, output: str) -> None:
    """Have everything that an old authority signed renewed; it stays trusted until it is revoked."""
    found = _leave("taint", authority, {"reason": reason}, is_dry=dry_run, output=output)
    render.data(found) if output == "json" else _report(found, "tainted", "would be tainted")


@click.command()
@click.argument("what", callback=_named)
@click.option("--reason", default="", help="Why, for the records.")
@click.option("--force", is_flag=True, help="Revoke an authority although valid SVIDs hang on it.")
@click.option("--dry-run", is_flag=True, help="Only say what it would break.")
@context.output_option("table", "json")
def revoke(*, what: str, reason: str, force: bool, dry_run: bool, output: str) -> None:
    """Revoke an SVID (serial number, or SPIFFE ID for all of one's) or an authority (its id).

    Connected agents hear of it at once; a revoked SVID stops working at every enforcer, and its workload gets another.
    """
    if _is_authority(what):
        found = _leave("revoke", what, {"reason": reason, "force": force}, is_dry=dry_run, output=output)
        render.data(found) if output == "json" else _report(found, "revoked", "would be revoked")
        return
    found = client.call("POST", "/v1/svids/revoke", {"wanted": what, "reason": reason, "dry_run": dry_run})
    if output == "json":
        render.data(found)
        return
    rows = [(row["spiffe_id"], row["serial"], row["node"]) for row in found["would_revoke" if dry_run else "revoked"]]
    render.table(rows, ("identity", "serial", "node"))
    render.say("nothing was revoked" if dry_run else "revoked for good: there is no undo")


@click.command()
@click.argument("what", callback=_named)
@context.output_option("table", "json")
def show(what: str, output: str) -> int:
    """Show SVIDs by serial number, token id or SPIFFE ID; ends with 1 when none of them is valid."""
    try:
        found = client.call("GET", f"/v1/svids/{_quoted(what)}")
    except NotFound as problem:
        # asked for one that nobody issued: the answer is no
        render.diagnostics([problem.diagnostic()])
        found = []
    if output == "json":
        render.data(found)
    else:
        for place, row in enumerate(found):
            if place:
                render.line("")
            shown = {**row, "valid": "yes" if row["valid"] else "no"}
            render.table([(name, "-" if value is None else value) for name, value in shown.items()], ("field", "value"))
    return 0 if any(row["valid"] for row in found) else 1


@click.command()
@click.argument("spiffe_id")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default=None,
    help="Directory for svid.pem, key.pem (0600) and bundle.pem; a key is made here.",
)
@click.option(
    "--csr", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="A PKCS#10 request instead (PEM or DER)."
)
@click.option("--audience", multiple=True, help="Issue a JWT-SVID for these audiences instead.")
@click.option(
    "--ttl", type=click.IntRange(60, 30 * 86400), default=None, help="Seconds; one hour, or 300 for a JWT-SVID."
)
@click.option("--dns", multiple=True, help="A DNS name for the certificate.")
@context.output_option("table", "json")
def issue(
    *,
    spiffe_id: str,
    out: pathlib.Path | None,
    csr: pathlib.Path | None,
    audience: tuple[str, ...],
    ttl: int | None,
    dns: tuple[str, ...],
    output: str,
) -> None:
    """Issue an SVID by hand, for what has no agent."""
    if audience:
        if (ttl or 0) > MAX_TOKEN_S:
            raise click.UsageError(f"a JWT-SVID lives {MAX_TOKEN_S} seconds at most: nobody can take it back")
        found = client.call(
            "POST",
            "/v1/svids/issue-jwt",
            {"spiffe_id": spiffe_id, "audiences": list(audience), "ttl_s": ttl or 300},
        )
        render.data(found) if output == "json" else render.line(found["token"])
        return
    if (out is None) == (csr is None):
        raise click.UsageError("give one of --out, --csr and --audience")
    key_pem, spki = _new_key() if csr is None else ("", _key_of(csr))
    body = {
        "spiffe_id": spiffe_id,
        "spki": base64.b64encode(spki).decode(),
        "ttl_s": ttl or 3600,
        "dns_names": list(dns),
    }
    found = client.call("POST", "/v1/svids/issue", body)
    if out is not None:
        _write(out, found["chain"], key_pem)
    if output == "json":
        render.data({**found, "out": str(out) if out is not None else None})
    elif out is None:
        render.line(found["chain"].strip())
    else:
        render.line(f"{found['spiffe_id']} until {found['not_after']}: {out}/svid.pem, key.pem, bundle.pem")
        render.say(f"undo: `limen identity revoke {found['serial']}`")


def _new_key() -> tuple[str, bytes]:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  only this command makes keys
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode(), spki


def _key_of(path: pathlib.Path) -> bytes:
    """The proven public key of a request. Raises Invalid LM1617."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from ca.keys import spki_der  # noqa: PLC0415
    from ca.upstream.chain import read_csr  # noqa: PLC0415

    try:
        data = path.read_bytes()
    except OSError as err:
        raise Invalid("LM1617", reason=f"`{path}`: {err.strerror or type(err).__name__}") from err
    if data.lstrip().startswith(b"-----BEGIN"):
        try:
            data = x509.load_pem_x509_csr(data).public_bytes(Encoding.DER)
        except ValueError as err:
            raise Invalid("LM1617", reason=f"`{path}`: it is no PKCS#10 request in PEM") from err
    try:
        return spki_der(read_csr(data))
    except Invalid as problem:
        raise Invalid(problem.code, reason=f"`{path}`: {problem.facts['reason']}") from problem


def _write(out: pathlib.Path, chain: str, key: str) -> None:
    from enforcer.nodestate import replace_file  # noqa: PLC0415  only this command writes keys

    out.mkdir(parents=True, exist_ok=True)
    bundle = client.call("GET", "/v1/bundle")["pem"]
    for name, text in (("key.pem", key), ("svid.pem", chain), ("bundle.pem", bundle)):
        replace_file(out / name, text.encode())


def _leave(verb: str, authority: str, body: dict[str, Any], *, is_dry: bool, output: str) -> Any:  # noqa: ANN401  JSON
    """Say first what hangs on an authority, then do it, unless it is a dry run."""
    path = f"/v1/authorities/{_quoted(authority)}/{verb}"
    found = client.call("POST", path, {**body, "dry_run": True})
    if output != "json":
        report_blast(found["blast"])
    return found if is_dry else client.call("POST", path, {**body, "dry_run": False})


def _is_authority(what: str) -> bool:
    if what.startswith("spiffe:"):
        return False
    try:
        client.call("GET", f"/v1/authorities/{_quoted(what)}")
    except NotFound:
        return False
    return True


def report_blast(blast: dict[str, Any]) -> None:
    """Say what hangs on an authority, before anything is done."""
    render.table(
        [
            ("servers below", blast["downstreams"]),
            ("SVIDs in use", blast["live_svids"]),
            ("SVIDs replaced, valid still", blast["replaced_svids"]),
            ("identities", blast["identities"]),
            ("agents", blast["nodes"]),
            ("last one issued", blast["last_issued"] or "-"),
            ("safe to revoke at", blast["safe_at"] or "now"),
        ],
        ("what hangs on it", "now"),
    )


def _report(found: dict[str, Any], done: str, undone: str) -> None:
    render.line(f"authority {found['authority']} ({found['kind']}) {'is ' + done if found['done'] else undone}")


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
