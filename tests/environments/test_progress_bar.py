"""Progress bars of indexing: one per stage, complete only if the work is."""

from __future__ import annotations

import pytest

from empg.environments.progress_bar import IndexingBars


@pytest.mark.parametrize(("total", "told"), [(None, (1, 2, 7)), (7, (1, 2, 7)), (None, (64, 128, 130))])
def test_progress_ends_at_what_was_done(
    capsys: pytest.CaptureFixture[str], total: int | None, told: tuple[int, ...]
) -> None:
    with IndexingBars("Indexing") as bars:
        done = bars.stage("words", total)
        for amount in told:
            done(amount)
        bars.stage("titles", 3)(3)
    title, first, second = capsys.readouterr().err.splitlines()
    assert title == "Indexing"
    assert f"{told[-1]}/{told[-1]}" in first
    assert "titles" in second
    assert "3/3" in second


def test_progress_that_broke_off_does_not_look_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with IndexingBars("Indexing") as bars:
            bars.stage("words", 9)(3)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        work()
    assert "3/9" in capsys.readouterr().err


def test_nothing_is_shown_without_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with IndexingBars("Indexing"):
        pass
    assert capsys.readouterr().err == ""
