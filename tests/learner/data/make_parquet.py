"""Make parquet/decisions.parquet: `python -m tests.learner.data.make_parquet`, by the exporter that users have."""

import pathlib

from audit.sinks.parquet import write_parquet
from tests.learner.sources.test_parquet import numbered

write_parquet(pathlib.Path(__file__).parent / "parquet" / "decisions.parquet", numbered())
