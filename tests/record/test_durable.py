"""A file is written whole or not at all, and a file that cannot be written is a user error."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.errors import UserError
from empg.record.durable import require_room, write_file


def test_a_file_is_written_into_a_new_folder(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b.txt", "caf\u00e9 \ud800\n")  # a lone surrogate has no UTF-8 form
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "caf\u00e9 ?\n"
    write_file(tmp_path / "a" / "b.txt", b"\xff")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.txt"]
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xff"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write .*file/b\.txt: (Not a directory|File exists)$"):
        write_file(tmp_path / "file" / "b.txt", "x")
    with pytest.raises(UserError, match=r"^cannot write .*: Is a directory$"):
        write_file(tmp_path, "x")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_room_for_a_file_leaves_nothing_behind(tmp_path: Path) -> None:
    require_room(tmp_path, 1_000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        require_room(tmp_path / "none", 1)
