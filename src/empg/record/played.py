"""The finished episodes of an evaluation that can be resumed: one line of JSON per episode, written when it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from empg.errors import UserError
from empg.record.lines import json_line
from empg.record.records import EpisodeRow
from empg.system.appending import append_lines

_FIELDS = get_type_hints(EpisodeRow)


class PlayedEpisodes:
    """The finished episodes of one panel by their place in it. The file is created with the first episode.

    A line has the `place`, the `row` of the episode (`EpisodeRow`), its `usage` (counts by name, or null), and what
    else was kept of it.

    Raises:
        UserError: the file cannot be read, or a line is not an episode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: dict[int, dict[str, Any]] = {}
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        for number, line in enumerate(data.split(b"\n")[:-1], 1):  # an incomplete last line was left by a kill
            try:
                kept = json.loads(line)
                if not _is_episode(kept):
                    raise ValueError
                self.lines[kept["place"]] = kept
            except (ValueError, RecursionError):
                raise UserError(f"{path} line {number} is not an episode; fix or delete the line") from None

    def add(self, place: int, content: Mapping[str, Any]) -> None:
        """Append the episode at a place of the panel and wait until it is on the disk.

        Raises:
            UserError: it cannot be written.
        """
        line = json_line({"place": place, **content})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._path, line)
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from None
        self.lines[place] = json.loads(line)


def _is_episode(kept: Any) -> bool:
    if not isinstance(kept, dict) or type(kept.get("place")) is not int or kept["place"] < 0:
        return False
    row, usage = kept.get("row"), kept.get("usage")
    if usage is not None and not (isinstance(usage, dict) and all(type(count) is int for count in usage.values())):
        return False
    return isinstance(row, dict) and all(name in row and _fits(row[name], kind) for name, kind in _FIELDS.items())


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field of `EpisodeRow`; a bool is not a number."""
    if kind is float:
        return type(value) in (int, float)
    if kind == dict[str, float]:
        return isinstance(value, dict) and all(_fits(number, float) for number in value.values())
    return type(value) is kind
