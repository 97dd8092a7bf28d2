"""Names of runs that are shown together."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.errors import UserError
from empg.record.runfolder import RunFolder
from empg.report.names import names_of


def named(*paths: str) -> list[str]:
    return names_of([RunFolder(Path(path)) for path in paths])


def test_a_name_is_as_long_as_tells_it_apart() -> None:
    assert named("n/demo", "n/other") == ["demo", "other"]
    assert named("n/old/demo", "n/new/demo", "n/new/other") == ["old/demo", "new/demo", "other"]
    assert named("n/a/x/demo", "n/b/x/demo", "n/b/y/demo") == ["a/x/demo", "b/x/demo", "y/demo"]


def test_a_run_has_the_name_of_its_folder_however_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(".", "sub/../other/") == [tmp_path.name, "other"]


def test_a_run_that_is_named_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "latest").symlink_to("demo")
    with pytest.raises(UserError, match="demo is named 2 times; name each run once"):
        named(f"{tmp_path}/demo", f"{tmp_path}/other", f"{tmp_path}/latest")
