"""`limen federation`: relationships with other trust domains, their bundles, and where their services are reached."""

from __future__ import annotations

import json
import pathlib
import urllib.parse
from typing import Any

import click

from limen import client
from limen.cli import context, render
from mesh.problems import Invalid, Span


@click.group()
def federation() -> None:
    """Believe identities of other trust domains."""


@federation.command()
@click.argument("trust_domain")
@click.option("--url", required=True, help="The other side's bundle endpoint, https.")
@click.option(
    "--profile",
    required=True,
    type=click.Choice(["https_web", "https_spiffe"]),
    help="How the endpoint proves itself: by web PKI, or by an X.509-SVID.",
)
@click.option("--endpoint-id", default=None, help="The endpoint's SPIFFE ID (https_spiffe).")
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The bundle to begin with: a SPIFFE document or PEM.",
)
@click.option(
    "--web-roots",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The only roots to trust for the endpoint's web certificate, PEM (https_web).",
)
@click.option("--replace", is_flag=True, help="Change the relationship that is there; its bundle stays.")
@context.output_option("table", "json")
def add(
    trust_domain: str,
    url: str,
    profile: str,
    endpoint_id: str | None,
    bundle: pathlib.Path | None,
    web_roots: pathlib.Path | None,
    output: str,
    *,
    replace: bool,
) -> None:
    """Configure a relationship with TRUST_DOMAIN and ask for its bundle."""
    body = {
        "trust_domain": trust_domain,
        "url": url,
        "profile": profile,
        "endpoint_id": endpoint_id,
        "bundle": None if bundle is None else _bundle_text(bundle),
        "web_roots": "" if web_roots is None else _text(web_roots),
        "replace": replace,
    }
    client.call("POST", "/v1/federation", body)
    _show(client.call("POST", _path(trust_domain, "/refresh")), output)
    render.say(f"undo with `limen federation remove {trust_domain}`")


@federation.command("list")
@context.output_option("table", "json")
def list_(output: str) -> None:
    """List the relationships and how each stands."""
    found = client.call("GET", "/v1/federation")
    if output == "json":
        render.data(found)
        return
    rows = [
        (
            row["trust_domain"],
            row["profile"],
            "-" if row["sequence"] is None else row["sequence"],
            f"{row['x509_authorities']} + {row['jwt_authorities']}",
            "never" if row["age_s"] is None else f"{row['age_s']} s ago",
            f"{row['failed_polls']} failed: {row['code']}" if row["failed_polls"] else "ok",
        )
        for row in found
    ]
    render.table(rows, ("trust domain", "profile", "sequence", "x509 + jwt", "confirmed", "polls"))


@federation.command()
@click.argument("trust_domain")
@click.option("--bundle", "is_bundle", is_flag=True, help="Print the bundle that is held, as a SPIFFE document.")
@context.output_option("table", "json")
def show(trust_domain: str, output: str, *, is_bundle: bool) -> None:
    """Show the relationship with TRUST_DOMAIN."""
    if is_bundle:
        held = client.call("GET", _path(trust_domain, "/bundle"))["spiffe"]
        render.data(json.loads(held) if held else None)
        return
    _show(client.call("GET", _path(trust_domain)), output)


@federation.command()
@click.argument("trust_domain")
@click.option("--force", is_flag=True, help="Take what is served even if its sequence number went back.")
@context.output_option("table", "json")
def refresh(trust_domain: str, output: str, *, force: bool) -> int:
    """Ask TRUST_DOMAIN's bundle endpoint now; exit status 1 when it could not be asked."""
    found = client.call("POST", _path(trust_domain, "/refresh?force=true" if force else "/refresh"))
    _show(found, output)
    return 1 if found["failed_polls"] else 0


@federation.command()
@click.argument("trust_domain")
@click.option("--dry-run", is_flag=True, help="Only say what that hits.")
@context.output_option("table", "json")
def remove(trust_domain: str, output: str, *, dry_run: bool) -> None:
    """End the relationship with TRUST_DOMAIN: none of its identities is believed from then on."""
    found = client.call("DELETE", _path(trust_domain, "?rehearse=true" if dry_run else ""))
    if output == "json":
        render.data(found)
        return
    rules = ", ".join(found["rules"]) or "none"
    rows = [("identity rules that federate with it", rules)]
    rows += [("named by", name) for name in found["policies"]]
    rows += [("service reached", f"{name} at {address}:{port}") for name, address, port in found["endpoints"]]
    render.table(rows, ("hit", "what"))
    render.say("nothing was changed" if dry_run else f"{trust_domain} is believed nowhere; its connections are closed")


@federation.command()
@click.argument("spiffe_id")
@click.argument("address")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--remove", "is_gone", is_flag=True, help="It is not there any more.")
@context.output_option("table", "json")
def reach(spiffe_id: str, address: str, port: int, output: str, *, is_gone: bool) -> None:
    """Say where a service of another trust domain, or of another server of this one, is reached: ADDRESS and PORT."""
    body = {"spiffe_id": spiffe_id, "address": address, "port": port, "is_gone": is_gone}
    _show(client.call("POST", "/v1/federation-endpoints", body), output)


def _path(trust_domain: str, rest: str = "") -> str:
    return f"/v1/federation/{urllib.parse.quote(trust_domain, safe='')}{rest}"


def _show(found: dict[str, Any], output: str) -> None:
    if output == "json":
        render.data(found)
        return
    render.table([(name, _cell(value)) for name, value in found.items()], ("field", "value"))


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)
    return "-" if value is None else str(value)


def _bundle_text(path: pathlib.Path) -> str:
    """A bundle's text; whether it is a bundle is the server's to say.

    Raises Invalid LM1519, with line and column where it is no JSON.
    """
    text = _text(path)
    if text.lstrip().startswith("{"):
        try:
            json.loads(text)
        except json.JSONDecodeError as err:
            span = Span(file=str(path), line=err.lineno, column=err.colno)
            raise Invalid("LM1519", span=span, path=str(path), reason=err.msg) from err
        except RecursionError as err:
            raise Invalid("LM1519", path=str(path), reason="it is nested too deeply") from err
    return text


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise Invalid("LM1519", path=str(path), reason=getattr(err, "strerror", None) or "it is no text") from err
