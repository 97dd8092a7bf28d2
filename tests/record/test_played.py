"""Episodes that are kept while an evaluation is played: torn and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empg.errors import UserError
from empg.record.played import PlayedEpisodes
from empg.record.records import EpisodeRow

ROW: EpisodeRow = {
    "task_id": "t", "task_index": 3, "task_type": "heat", "success": True, "score": 1, "metrics": {"spl": 0.5},
    "reward": 1.0, "turns": 4, "action_tokens": 40, "tokens": 400, "valid_turns": 4, "failed_turns": 0, "end": "done",
}  # fmt: skip


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


@pytest.mark.parametrize(
    "change",
    [{"score": "x"}, {"metrics": None}, {"metrics": {"spl": "x"}}, {"success": 1}, {"turns": True}, {"end": 0}],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "panel.jsonl"
    PlayedEpisodes(path).add(0, {"row": {**ROW, **change}})
    with pytest.raises(UserError, match="line 1 is not an episode"):
        PlayedEpisodes(path)


@pytest.mark.parametrize("usage", [3, [], {"requests": "1"}, {"requests": True}])
def test_what_an_episode_cost_is_counts(usage: Any, tmp_path: Path) -> None:
    path = tmp_path / "panel.jsonl"
    PlayedEpisodes(path).add(0, {"row": ROW, "usage": usage})
    with pytest.raises(UserError, match="line 1 is not an episode"):
        PlayedEpisodes(path)


@pytest.mark.parametrize("place", [-1, 0.5, "0", None, True])
def test_a_place_outside_every_panel_is_named(place: Any, tmp_path: Path) -> None:
    path = tmp_path / "panel.jsonl"
    PlayedEpisodes(path).add(place, {"row": ROW})
    with pytest.raises(UserError, match="line 1 is not an episode"):
        PlayedEpisodes(path)


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
