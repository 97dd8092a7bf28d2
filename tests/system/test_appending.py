"""A file of lines grows by whole appends: an append that fails or is killed leaves no part of a line behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from empg.system.appending import append_lines


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_lines(path, b"one\n")
    append_lines(path, b"two\nthree\n")
    append_lines(path, b"")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("torn", [b"tw", b"two", b"\xff\r"])
def test_a_line_that_a_kill_left_incomplete_is_removed(tmp_path: Path, torn: bytes) -> None:
    for kept in (b"", b"one\n"):
        path = tmp_path / f"lines{len(kept)}"
        path.write_bytes(kept + torn)
        append_lines(path, b"three\n")
        assert path.read_bytes() == kept + b"three\n"


@pytest.mark.parametrize("size", range(4, 12))
def test_after_a_full_disk_the_file_is_as_before_and_the_lines_can_be_appended_again(tmp_path: Path, size: int) -> None:
    path = tmp_path / "lines"
    append_lines(path, b"one\n")
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        append_lines(path, b"two\nthree\n")
    assert path.read_bytes() == b"one\n"
    append_lines(path, b"two\nthree\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
