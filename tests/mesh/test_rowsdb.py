import pathlib
import tempfile

import pytest

from mesh.problems import Invalid
from mesh.rowsdb import rows_database


def refused(reason: str) -> Exception:
    return Invalid("LM4001", file="x", reason=reason)


def test_what_it_cannot_read_is_the_callers_own_error_with_one_line_of_reason(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Invalid) as caught, rows_database(refused) as database:
        database.execute("SELECT * FROM read_parquet($file)", {"file": str(tmp_path / "a.parquet")})
    assert "\n" not in str(caught.value.facts["reason"])


def test_it_spills_to_a_folder_that_goes_away_and_fetches_no_extension() -> None:
    with rows_database(refused) as database:
        asked = "SELECT value FROM duckdb_settings() WHERE name IN ('temp_directory', 'autoinstall_known_extensions')"
        found = {row[0] for row in database.execute(asked).fetchall()}
        (spill,) = found - {"false"}
        assert spill.startswith(tempfile.gettempdir())
        assert "false" in found
    assert not pathlib.Path(spill).exists()
