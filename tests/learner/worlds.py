"""Small simulated worlds of traffic, seeded: who calls whom, with attackers planted where a test wants them."""

import datetime as dt
import random
import uuid

from mesh.flow import Flow, flow_from_json

START = dt.datetime(2026, 11, 2, 8, 0, tzinfo=dt.UTC)
NS = "spiffe://sim.test/ns/shop/sa/"


def flow(source: str | None, destination: str, at: dt.datetime, **fields: object) -> Flow:
    row: dict[str, object] = {
        "start": at.isoformat(),
        "source": f"{NS}{source}" if source else None,
        "source_ip": "10.0.0.9" if source is None else None,
        "destination": f"{NS}{destination}",
        "destination_port": 8080,
        "protocol": "http",
        "method": "GET",
        "path": "/",
        "status": 200,
        "established": True,
        **fields,
    }
    return flow_from_json({name: value for name, value in row.items() if value is not None or name == "source"})


def shop(days: int = 3, seed: int = 1) -> list[Flow]:
    """web calls cart, cart calls orders, all day; a health check; a rare call once a day."""
    rng = random.Random(seed)
    found = []
    for day in range(days):
        begin = START + dt.timedelta(days=day)
        for number in range(60):
            at = begin + dt.timedelta(minutes=5 * number, seconds=rng.randrange(200))
            found.append(flow("web", "cart", at, path=f"/carts/{uuid.UUID(int=rng.getrandbits(128))}"))
            found.append(flow("cart", "orders", at, path=f"/orders/{rng.randrange(10_000)}"))
            if number % 3 == 0:
                found.append(flow("cart", "orders", at, method="POST", path="/orders", status=201))
            if number % 10 == 0:
                found.append(flow("web", "cart", at, path="/healthz"))
        found.append(flow("web", "cart", begin + dt.timedelta(hours=6), method="DELETE", path="/carts/0"))
    return found


def fast_scan(at: dt.datetime = START) -> list[Flow]:
    return [
        flow(None, "cart", at + dt.timedelta(seconds=n), destination_port=1000 + n, protocol="tcp", established=False,
             method=None, path=None, status=None)
        for n in range(200)
    ]  # fmt: skip


def slow_scan(at: dt.datetime = START) -> list[Flow]:
    return [
        flow("web", "orders", at + dt.timedelta(minutes=20 * n), destination_port=2000 + n, protocol="tcp",
             established=False, method=None, path=None, status=None, replica="web-3")
        for n in range(30)
    ]  # fmt: skip


def prober(at: dt.datetime = START, good: int = 0) -> list[Flow]:
    rng = random.Random(7)
    found = [
        flow("reporter", "orders", at + dt.timedelta(seconds=n), path=f"/{rng.getrandbits(40):x}", status=404)
        for n in range(100)
    ]
    return found + [flow("reporter", "orders", at + dt.timedelta(seconds=n), path="/ok") for n in range(good)]


def lone_replica(at: dt.datetime = START) -> list[Flow]:
    """Lateral movement: one of four replicas calls payments, often; the others only call cart."""
    found = [flow("web", "cart", at + dt.timedelta(minutes=n), replica=f"web-{n % 4}", path="/x") for n in range(80)]
    return found + [
        flow("web", "payments", at + dt.timedelta(minutes=n), replica="web-2", path="/pay") for n in range(10)
    ]


def burst(at: dt.datetime) -> list[Flow]:
    return [flow("cart", f"db{n}", at + dt.timedelta(minutes=n), path="/q", replica="cart-1") for n in range(8)]
