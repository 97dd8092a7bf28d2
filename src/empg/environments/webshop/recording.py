"""Episodes that people shopped, as JSON lines: what was done, and enough to do it again.

One line is one finished episode:

    {"format": "empg-webshop-episode-2", "catalogue": "<fingerprint>", "task_id": "<id>", "split": "train", "task": 7,
     "rules": {"max_steps": 15, "nouns": "lexicon", "results_per_page": 10, ...},
     "turns": [{"thought": "", "action": "search[green tea]"}, ...], "ended": "bought", "score": 1.0}

Pages are not kept: playing the actions again gives them back. `thought` may be empty. `ended` is "bought", or "out of
steps", and then `score` is 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from empg.environments.base import Decision, RecordedEpisode
from empg.environments.options import MOST_STEPS
from empg.environments.webshop.episode import ShopEpisode
from empg.environments.webshop.shop import parse_command
from empg.environments.webshop.world import Page
from empg.errors import UserError
from empg.system.appending import append_lines

FORMAT = "empg-webshop-episode-2"
ENDS = ("bought", "out of steps")
_MAX_CHARS, _MAX_LINE = 10_000, 1 << 26  # a line of the longest visit, with 60 bytes per turn, is shorter
# What is shown of a page changes nothing about what a command does.
_RULES = ("results_per_page", "stop_at_last_page", "reach_bracketed_values")


@dataclass(frozen=True, slots=True)
class Recording:
    """One finished episode. `turns` hold thoughts and actions; `score` is what the purchase was worth."""

    catalogue: str
    task_id: str
    split: str
    task: int
    rules: dict[str, bool | int | str]
    turns: tuple[Decision, ...]
    ended: str
    score: float


def record(environment: ShopEpisode, task: int, turns: Sequence[Decision]) -> Recording:
    """Return the recording of an environment whose episode has just ended, with a purchase or without."""
    shop, goal, state = environment.shop, environment.goal, environment.state
    bought = state.page is Page.DONE
    score = shop.score(state, goal).reward if bought else 0.0
    return Recording(
        catalogue=shop.catalogue.fingerprint,
        task_id=goal.task_id,
        split=environment.split,
        task=task,
        rules=_rules(environment),
        turns=tuple(turns),
        ended=ENDS[0] if bought else ENDS[1],
        score=score,
    )


def require_writable(path: Path) -> None:
    """Make sure that recordings can be added to a file, before anybody begins to shop.

    Raises:
        UserError: they cannot; the message names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError(f"recordings cannot be written to {path}: {error.strerror or error}") from None


def append(path: Path, recordings: Iterable[Recording]) -> None:
    """Append recordings to a file, all or none.

    Raises:
        OSError: the file cannot be written.
    """
    lines = [json.dumps({"format": FORMAT, **asdict(made)}, ensure_ascii=False) + "\n" for made in recordings]
    append_lines(path, "".join(lines).encode())


def read(path: Path) -> Iterator[tuple[str, Recording]]:
    """Yield where each recording of a file stands ("FILE, line N"), and the recording.

    Raises:
        UserError: a line is not one; the message names the file and the line.
    """
    number = 0
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE):
            number += 1
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    made = _parse(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    reason = "it is not JSON" if isinstance(error, UnicodeDecodeError) else error
                    raise UserError(f"{where}: not a recorded episode ({reason}); remove the line") from None
                yield where, made


def require_fitting(recording: Recording, environment: ShopEpisode) -> None:
    """Make sure that a recording can be played again in an environment.

    Raises:
        UserError: it was made in another shop, under other rules, or of another task; the message says what differs.
    """
    if recording.catalogue != environment.shop.catalogue.fingerprint:
        raise UserError(f"the recording of {recording.task_id} was made with another catalogue")
    if recording.split != environment.split:
        raise UserError(f"the recording of {recording.task_id} is of split {recording.split}, not {environment.split}")
    here = environment.goal_id(recording.task) if recording.task < environment.num_tasks else ""
    if here != recording.task_id:
        raise UserError(f"task {recording.task} is not {recording.task_id}: goals or split scheme differ")
    rules = _rules(environment)
    actions = [turn["action"] for turn in recording.turns]
    if all(parse_command(action, reach=True) == parse_command(action, reach=False) for action in actions):
        del rules["reach_bracketed_values"]  # it makes no difference
    differing = [name for name, value in rules.items() if recording.rules.get(name) != value]
    if differing:
        listed = ", ".join(f"{name}={recording.rules.get(name)} (here {rules[name]})" for name in differing)
        raise UserError(f"the recording of {recording.task_id} was made under other rules: {listed}")


def fitting(file: Path, environment: ShopEpisode) -> Iterator[RecordedEpisode]:
    """Yield the episodes of a file that belongs to an environment.

    Raises:
        UserError: a line is no recording, or does not fit; the message names the file and the line.
    """
    for where, made in read(file):
        try:
            require_fitting(made, environment)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        yield RecordedEpisode(where, made.task, made.turns, made.score)


def _rules(environment: ShopEpisode) -> dict[str, bool | int | str]:
    """Return what a replay and its score depend on, beside the catalogue and the goal."""
    shop = environment.shop
    rules = {name: getattr(shop.rules, name) for name in _RULES}
    return {"max_steps": environment.max_steps, "nouns": shop.nouns, **rules}


def _parse(fields: Any) -> Recording:
    if fields["format"] != FORMAT:
        raise UserError(f"format: expected {FORMAT!r}, got {_shown(fields['format'])}")
    turns, score, task, rules = fields["turns"], fields["score"], fields["task"], fields["rules"]
    if not isinstance(turns, list) or not 0 < len(turns) <= MOST_STEPS:
        raise UserError(f"turns: expected a list of 1 to {MOST_STEPS:,} turns, got {_shown(turns)}")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise UserError(f"score: expected a number from 0 to 1, got {_shown(score)}")
    if not isinstance(task, int) or task < 0:
        raise UserError(f"task: expected a whole number from 0, got {_shown(task)}")
    if not isinstance(rules, dict) or not all(isinstance(value, bool | int | str) for value in rules.values()):
        raise UserError(f"rules: expected texts, numbers and booleans by name, got {_shown(rules)}")
    if fields["ended"] not in ENDS:
        raise UserError(f"ended: expected one of {', '.join(ENDS)}, got {_shown(fields['ended'])}")
    decisions = tuple(Decision(thought=_text(turn, "thought"), action=_text(turn, "action")) for turn in turns)
    catalogue, task_id, split = (_text(fields, name) for name in ("catalogue", "task_id", "split"))
    return Recording(catalogue, task_id, split, task, rules, decisions, fields["ended"], float(score))


def _text(fields: Any, name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or len(value) > _MAX_CHARS:
        raise UserError(f"{name}: expected a text of at most {_MAX_CHARS:,} characters, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """Return a value as an error shows it, on one line and not too long."""
    return f"{value!r:.80}"
