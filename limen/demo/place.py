"""Where the demo happens: directories, free ports, the shop's programs and its first policy tree."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.resources
import pathlib
import secrets
import socket

TRUST_DOMAIN = "demo.limen.test"
SERVICES = ("web", "cart", "orders", "payments")
PROGRAMS = (*SERVICES, "shopper", "reporter")
CALLS: dict[str, tuple[str, ...]] = {
    "web": ("cart",),
    "cart": ("orders",),
    "orders": ("payments",),
    "payments": (),
    "shopper": ("web", "orders"),
    "reporter": ("orders", "payments"),
}
# below the range that outgoing connections take their ports from
_FIRST_PORT, _LAST_PORT = 20000, 31900


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Paths and ports of one run."""

    root: pathlib.Path
    inbound: dict[str, int]
    application: dict[str, int]
    outbound: dict[tuple[str, str], int]

    @property
    def state(self) -> pathlib.Path:
        """The installation's state directory."""
        return self.root

    @property
    def programs(self) -> pathlib.Path:
        """Where the shop's programs are installed."""
        return self.root / "shop" / "bin"

    def path(self, name: str) -> pathlib.Path:
        """A file or directory of this run."""
        return self.root / "shop" / name

    def program(self, name: str) -> pathlib.Path:
        """One installed program."""
        return self.programs / name

    def environment(self, name: str) -> dict[str, str]:
        """What a program reads from its environment: its own port and its ways out."""
        found = {f"{service.upper()}_PORT": str(self.outbound[name, service]) for service in CALLS[name]}
        if name in self.application:
            found["PORT"] = str(self.application[name])
        return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    found: list[int] = []
    while len(found) < count:
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def prepare(root: pathlib.Path, now: dt.datetime) -> Place:
    """Install the programs, the identity rule and the first policy tree below a directory."""
    edges = [(name, service) for name in PROGRAMS for service in CALLS[name]]
    ports = iter(free_ports(2 * len(SERVICES) + len(edges)))
    place = Place(
        root=root,
        inbound={name: next(ports) for name in SERVICES},
        application={name: next(ports) for name in SERVICES},
        outbound={edge: next(ports) for edge in edges},
    )
    place.programs.mkdir(parents=True, exist_ok=True)
    source = importlib.resources.files("limen.demo") / "services"
    for name in PROGRAMS:
        target = place.program(name)
        target.write_bytes((source / f"{name}.py").read_bytes())
        target.chmod(0o555)
    (root / "identities.yaml").write_text(_identities(place), "utf-8")
    write_policies(place.path("policies"), _services(place, now))
    return place


def _identities(place: Place) -> str:
    return (
        "rules:\n"
        "# one rule for every program of the shop: what the agent opened, hashed and executed decides\n"
        "- id: shop\n"
        f'  match: {{"launch:script": "{place.programs.resolve()}/*"}}\n'
        '  spiffe_id: "/ns/shop/sa/{launch:script_basename}"\n'
        "  ttl: 1h\n"
    )


def _services(place: Place, now: dt.datetime) -> str:
    until = (now + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "---\n".join(
        "apiVersion: limen.dev/v1\n"
        "kind: Service\n"
        f"metadata: {{name: {name}, owner: team-{'payments' if name == 'payments' else 'shop'}}}\n"
        "spec:\n"
        f'  identities: ["spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name}"]\n'
        f"  ports: [{{port: {place.inbound[name]}, protocol: http}}]\n"
        "  mode: observe\n"
        f"  until: {until}\n"
        for name in SERVICES
    )


def write_policies(directory: pathlib.Path, text: str) -> None:
    """Write a policy tree of one file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "services.yaml").write_text(text, "utf-8")
