"""Episodes that are kept while an evaluation is played: torn and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.errors import UserError
from empg.record.played import PlayedEpisodes
from empg.record.records import EpisodeRow

ROW = dict.fromkeys(EpisodeRow.__annotations__, 0)


def test_episodes_are_read_again_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "evaluations" / "panel.jsonl"
    played = PlayedEpisodes(path)
    assert played.lines == {}
    for place in (2, 0):
        played.add(place, {"row": ROW, "task": "\u2028\ud800"})
    path.write_bytes(path.read_bytes() + b'{"place":1,"row":{')
    again = PlayedEpisodes(path)
    assert again.lines == played.lines == {2: {"place": 2, "row": ROW, "task": "\u2028\ud800"}, 0: again.lines[0]}
    again.add(1, {"row": ROW})
    assert list(PlayedEpisodes(path).lines) == [2, 0, 1]


@pytest.mark.parametrize("line", [b"[]", b"{}", b'{"place":0,"row":{"task_id":"t"}}', b'{"place":0,"row":[]}', b"\xff"])
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "panel.jsonl"
    PlayedEpisodes(path).add(0, {"row": ROW})
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"panel\.jsonl line 2 is not an episode; fix or delete the line"):
        PlayedEpisodes(path)


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "evaluations").write_text("a file")
    with pytest.raises(UserError, match=r"^cannot (read|write) .*panel\.jsonl"):
        PlayedEpisodes(tmp_path / "evaluations" / "panel.jsonl").add(0, {"row": ROW})
