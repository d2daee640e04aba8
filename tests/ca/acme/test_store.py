import datetime as dt

from ca.acme import store
from mesh.clock import format_time
from mesh.database import migrate, open_database, transaction
from tests.world import START


def test_what_is_pending_expires_with_all_that_hangs_on_it() -> None:
    engine = open_database("sqlite://")
    migrate(engine, "ca")
    times = {"created": format_time(START), "expires": format_time(START + dt.timedelta(hours=1))}
    with transaction(engine) as connection:
        for status in ("pending", "valid"):
            store.put(
                connection,
                store.ORDERS,
                id=status,
                account="a",
                status=status,
                identifiers="[]",
                authorizations="[]",
                error="",
                **times,
            )
        store.put(
            connection,
            store.AUTHORIZATIONS,
            id="z",
            account="a",
            type="dns",
            value="a",
            status="pending",
            expires=times["expires"],
        )
        store.put(
            connection,
            store.CHALLENGES,
            id="c",
            authorization="z",
            type="dns-01",
            token="t",
            status="pending",
            error="",
        )
        assert store.expire(connection, START) == 0
        assert store.expire(connection, START + dt.timedelta(hours=2)) == 1
        assert [row["id"] for row in store.every(connection, store.ORDERS)] == ["valid"]
        assert not store.count(connection, store.CHALLENGES) + store.count(connection, store.AUTHORIZATIONS)
