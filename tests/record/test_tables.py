"""A table is written and read at the path it was given, whatever characters are in it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from empg.record.tables import TableError, read_table, write_table

SCHEMA = pa.schema([pa.field("n", pa.int32())])


@pytest.mark.parametrize("folder", ["lr:3e-4", "~", "~/x", "lr=3", "file:x", "s3:"])
def test_a_relative_folder_is_neither_a_uri_nor_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_table(Path(folder) / "a.parquet", SCHEMA, {"n": [1, 2]})
    assert read_table(path) == {"n": [1, 2]}
    assert (tmp_path / folder / "a.parquet").is_file()


def test_an_error_of_arrow_is_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(table: pa.Table, path: Path, **options: object) -> None:
        path.touch()
        raise pa.ArrowInvalid("no such\nfile system")

    monkeypatch.setattr(pq, "write_table", refused)
    with pytest.raises(TableError, match=r"^cannot write .*a\.parquet: no such file system$"):
        write_table(tmp_path / "a.parquet", SCHEMA, {"n": [1]})
    assert list(tmp_path.iterdir()) == []
