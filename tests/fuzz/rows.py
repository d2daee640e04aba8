"""What a server keeps: the rows of every table and the length of its log, to show that a refusal left nothing."""

import sqlalchemy as sa

from tests.world import World


def kept(world: World) -> dict[str, int]:
    """How many rows each table has, and how many records the log."""
    with world.app._engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        found = {name: connection.execute(sa.text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names}
    return {**found, "records": int(world.app.status()["records"])}
