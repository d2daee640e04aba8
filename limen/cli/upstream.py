"""`limen identity upstream`: the requests that wait for an offline root, the chains that answer them, and the root.

Works on files alone: a server that has no issuing authority yet cannot be asked, and the root's machine has none.
"""

from __future__ import annotations

import pathlib

import click

from limen.cli import context, render
from mesh.problems import Invalid


@click.group()
def upstream() -> None:
    """Carry requests to an offline root, and its answers back."""


@upstream.command()
@context.output_option("table", "json")
def csr(output: str) -> int:
    """Print the request that waits, PEM; exit 1 when none does."""
    from limen.offlineroot import waiting  # noqa: PLC0415  only this command needs X.509

    found = waiting(context.state())
    if output == "json":
        render.data([{"path": str(path), "csr": text} for path, text in found])
    elif found:
        render.line(found[0][1].rstrip("\n"))
        render.say(f"request: {found[0][0]}")
    else:
        render.say("no request waits")
    return 0 if found else 1


@upstream.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=pathlib.Path))
def import_(file: pathlib.Path) -> None:
    """Import the signed chain, PEM: the issuing certificate first, the root last."""
    from limen.offlineroot import take  # noqa: PLC0415  only this command needs X.509
    from mesh.clock import SystemClock  # noqa: PLC0415

    request = take(context.state(), file, SystemClock().now())
    render.say(f"answered: {request}")
    render.say("start the server, or wait for its next try")


_KEY = "A PEM file, or a PKCS#11 URI with the key's label as `object`."


@upstream.command()
@click.option("--trust-domain", required=True, help="Name of the trust domain.")
@click.option("--key", required=True, help=_KEY + " Made when it is missing.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), required=True, help="The certificate.")
@click.option(
    "--algorithm",
    default="p256",
    show_default=True,
    help="p256, p384, rsa-2048, rsa-3072, rsa-4096, or ml-dsa-65 (experimental).",
)
@click.option("--life", default="3650d", show_default=True, help="How long the root is valid.")
def root(trust_domain: str, key: str, out: pathlib.Path, algorithm: str, life: str) -> None:
    """Make an offline root, on the machine where it stays."""
    from ca.keys import KeyAlgorithm  # noqa: PLC0415  only this command needs X.509
    from ca.upstream.spec import parse_life  # noqa: PLC0415
    from limen.offlineroot import make_root  # noqa: PLC0415
    from mesh.clock import SystemClock  # noqa: PLC0415
    from mesh.spiffe import SpiffeIdError, TrustDomain  # noqa: PLC0415

    try:
        domain = TrustDomain.parse(trust_domain)
    except SpiffeIdError as err:
        raise Invalid("LM5214", given=trust_domain, reason=str(err)) from err
    chosen = KeyAlgorithm.of(algorithm)
    made = make_root(domain, key, out, algorithm=chosen, life=parse_life(life), now=SystemClock().now())
    render.say(f"root: {out}, valid until {made.not_valid_after_utc.isoformat()}")


@upstream.command()
@click.argument("request", type=click.Path(dir_okay=False, path_type=pathlib.Path))
@click.option("--cert", type=click.Path(dir_okay=False, path_type=pathlib.Path), required=True, help="The root, PEM.")
@click.option("--key", required=True, help=_KEY)
@click.option("--bundle", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Roots above an intermediate.")
@click.option(
    "--passphrase", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="File that decrypts the key."
)
@click.option("--trust-domain", required=True, help="Name of the trust domain.")
@click.option("--life", default="365d", show_default=True, help="How long the issuing authority is valid.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), required=True, help="The chain.")
def sign(
    request: pathlib.Path,
    cert: pathlib.Path,
    key: str,
    bundle: pathlib.Path | None,
    passphrase: pathlib.Path | None,
    trust_domain: str,
    life: str,
    out: pathlib.Path,
) -> None:
    """Sign a request with an offline root, on the machine where it is."""
    from ca.upstream.local import open_disk  # noqa: PLC0415  only this command needs X.509
    from ca.upstream.spec import parse_life  # noqa: PLC0415
    from limen.offlineroot import sign_request  # noqa: PLC0415
    from mesh.clock import SystemClock  # noqa: PLC0415
    from mesh.spiffe import SpiffeIdError, TrustDomain  # noqa: PLC0415

    try:
        domain = TrustDomain.parse(trust_domain)
    except SpiffeIdError as err:
        raise Invalid("LM5214", given=trust_domain, reason=str(err)) from err
    found = open_disk(domain, certificates=cert, key=key, bundle=bundle, passphrase=passphrase, life=parse_life(life))
    answer = sign_request(found, request, out, SystemClock().now())
    render.say(f"chain: {out}, valid until {answer.not_after.isoformat()}")
