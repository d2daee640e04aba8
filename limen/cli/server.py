"""`limen server`: the authority, the policy store, reviews, flows and the audit log in one process."""

from __future__ import annotations

import pathlib

import click

from limen.cli import context
from limen.limits import CONNECT_BURST, CONNECT_RATE
from limen.values import LEARN_DAYS
from mesh.problems import Invalid


@click.command()
@click.option("--trust-domain", default="limen.local", show_default=True, help="Name of the trust domain.")
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address, or ADDRESS:PORT, to serve on.")
@click.option("--database", envvar="LIMEN_DATABASE", default=None, help="Database URL; SQLite in the state by default.")
@click.option(
    "--reviewers",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The first reviewer set; one local key by default.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="A web certificate for the public port: PEM chain, leaf first.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    default=None,
    help="The private key of `--tls-cert`, PEM.",
)
@click.option(
    "--upstream",
    default="own",
    show_default=True,
    help="Who signs issuing certificates: own, offline, disk:…, limen:…, step-ca:…, spire:… (docs/guides/upstream.md).",
)
@click.option(
    "--key-source",
    default="database",
    show_default=True,
    help="Where signing keys are kept: database, memory, disk:DIR or a PKCS#11 URI.",
)
@click.option(
    "--key-algorithm",
    default="p256",
    show_default=True,
    help="p256, p384, rsa-2048, rsa-3072, rsa-4096, or ml-dsa-65 (experimental), for new authorities.",
)
@click.option(
    "--signers",
    type=click.IntRange(0, 64),
    default=None,
    help="Processes that sign large batches beside the server.  [default: 1 on two cores or more, else 0]",
)
@click.option("--jwt-issuer", default=None, help="URL of the OIDC issuer that JWT-SVIDs name.")
@click.option(
    "--federation-listen",
    default=None,
    help="ADDRESS, or ADDRESS:PORT, of the https_spiffe bundle endpoint.  [default: beside --listen, any free port]",
)
@click.option(
    "--opa-reader",
    "opa_readers",
    multiple=True,
    help="SPIFFE ID or pattern that may fetch the policies as an OPA bundle; may be repeated (docs/guides/opa.md).",
)
@click.option(
    "--authzen-caller",
    "authzen_callers",
    multiple=True,
    help="SPIFFE ID or pattern that may ask the AuthZEN API; may be repeated (docs/guides/authzen.md).",
)
@click.option(
    "--connect-rate",
    type=click.FloatRange(min=0, min_open=True, max=1_000_000),
    default=CONNECT_RATE,
    show_default=True,
    help="How many times a second one address may connect to a port, once --connect-burst is used up.",
)
@click.option(
    "--connect-burst",
    type=click.IntRange(1, 1_000_000),
    default=CONNECT_BURST,
    show_default=True,
    help="How many times at once one address may connect to a port.",
)
@click.option(
    "--learn-days",
    type=click.IntRange(0, 3650),
    default=LEARN_DAYS,
    show_default=True,
    help="For how many days the learner remembers what it saw; 0 has it learn nothing (docs/guides/learning.md).",
)
def server(
    trust_domain: str,
    listen: str,
    database: str | None,
    reviewers: pathlib.Path | None,
    tls_cert: pathlib.Path | None,
    tls_key: pathlib.Path | None,
    jwt_issuer: str | None,
    upstream: str,
    key_source: str,
    key_algorithm: str,
    signers: int | None,
    federation_listen: str | None,
    opa_readers: tuple[str, ...],
    authzen_callers: tuple[str, ...],
    connect_rate: float,
    connect_burst: int,
    learn_days: int,
) -> None:
    """Run the server in the foreground until SIGTERM."""
    from limen import serve  # noqa: PLC0415  heavy imports only for the process that needs them
    from limen.values import Public  # noqa: PLC0415

    web = _web(tls_cert, tls_key)
    serve.run(
        context.state(),
        trust_domain=trust_domain,
        listen=listen,
        database=database,
        reviewers=reviewers,
        upstream=upstream,
        key_source=key_source,
        key_algorithm=key_algorithm,
        signers=signers,
        public=Public(
            web=web,
            jwt_issuer=jwt_issuer,
            federation=federation_listen,
            opa_readers=opa_readers,
            authzen_callers=authzen_callers,
            connect_rate=connect_rate,
            connect_burst=connect_burst,
            learn_days=learn_days,
        ),
    )


def _web(certificate: pathlib.Path | None, key: pathlib.Path | None) -> tuple[pathlib.Path, pathlib.Path] | None:
    """The files of the public port's certificate.

    Raises Invalid LM1516 when only one is given.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise Invalid("LM1516", reason="one of both is missing")
    return certificate.absolute(), key.absolute()
