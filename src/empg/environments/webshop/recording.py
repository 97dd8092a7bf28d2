"""Episodes that people shopped, as JSON lines: what was done, and enough to do it again.

One line is one finished episode:

    {"format": "empg-webshop-episode-1", "catalogue": "<fingerprint>", "task_id": "<id>", "split": "train", "task": 7,
     "turns": [{"thought": "", "action": "search[green tea]"}, ...], "score": 1.0}

Pages are not kept: playing the actions again gives them back. `thought` may be empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from empg.environments.base import Decision, Info
from empg.environments.webshop.env import WebShopEnv

FORMAT = "empg-webshop-episode-1"
_MAX_TURNS, _MAX_CHARS = 1_000, 10_000  # a line with more is not from this package


@dataclass(frozen=True, slots=True)
class Recording:
    """One finished episode. `turns` hold thoughts and actions; `score` is what the purchase was worth."""

    catalogue: str
    task_id: str
    split: str
    task: int
    turns: tuple[Decision, ...]
    score: float

    def expert(self) -> Replay:
        """An expert that does the same again."""
        return Replay(self.turns)


class Replay:
    """Gives recorded turns back, one by one: an `Expert` for the environment that they were recorded in."""

    def __init__(self, turns: Sequence[Decision]) -> None:
        self._turns = iter(turns)

    def act(self, observation: str, info: Info) -> Decision:
        """The next recorded turn.

        Raises:
            ValueError: the recording is over and the episode is not: they do not belong together.
        """
        for turn in self._turns:
            return turn
        raise ValueError("the recording ends before the episode does: it was made in another shop, or with other rules")


def record(environment: WebShopEnv, task: int, turns: Sequence[Decision]) -> Recording:
    """The recording of an environment whose episode has just ended with a purchase."""
    shop, goal = environment.shop, environment.goal
    score = shop.score(environment.state, goal).reward
    return Recording(shop.catalogue.fingerprint, goal.task_id, environment.split, task, tuple(turns), score)


def append(path: Path, recording: Recording) -> None:
    """Add a recording to a file, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"format": FORMAT, **asdict(recording)}, ensure_ascii=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read(path: Path) -> Iterator[Recording]:
    """The recordings of a file.

    Raises:
        ValueError: a line is not one; the message names the file and the line.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _parse(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    where = f"{path}, line {number}"
                    raise ValueError(f"{where}: not a recorded episode ({error}); remove the line") from None


def require_fitting(recording: Recording, environment: WebShopEnv) -> None:
    """Make sure that a recording can be played again in an environment.

    Raises:
        ValueError: it was made in another shop, split or task; the message says what differs.
    """
    if recording.catalogue != environment.shop.catalogue.fingerprint:
        raise ValueError(f"the recording of {recording.task_id} was made with another catalogue")
    if recording.split != environment.split:
        raise ValueError(f"the recording of {recording.task_id} is of split {recording.split}, not {environment.split}")
    if recording.task >= environment.num_tasks or environment.task_id(recording.task) != recording.task_id:
        raise ValueError(f"task {recording.task} is not {recording.task_id}: goals or split scheme differ")


def _parse(fields: dict[str, object]) -> Recording:
    if fields["format"] != FORMAT:
        raise ValueError(f"format is {fields['format']!r}")
    turns, score, task = fields["turns"], fields["score"], fields["task"]
    if not isinstance(turns, list) or not 0 < len(turns) <= _MAX_TURNS:
        raise ValueError("turns: a list of turns is needed")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError("score: a number in [0, 1] is needed")
    if not isinstance(task, int) or task < 0:
        raise ValueError("task: a number is needed")
    decisions = tuple(Decision(thought=_text(turn["thought"]), action=_text(turn["action"])) for turn in turns)
    catalogue, task_id, split = (_text(fields[name]) for name in ("catalogue", "task_id", "split"))
    return Recording(catalogue, task_id, split, task, decisions, float(score))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        raise ValueError("a text is needed")
    return value
