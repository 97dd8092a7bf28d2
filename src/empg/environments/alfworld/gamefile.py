"""Official game files: `game.tw-pddl`, and the tree `json_2.1.1/<split>/<task>/<trial>/` of `alfworld-download`.

Reading needs only this package. Writing needs ALFRED's domain and grammar, which the `alfworld` wheel contains and
this package does not.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from empg.environments.alfworld.pddl import parse_problem, problem_text
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import TREATMENTS, Game, TaskType
from empg.errors import MissingExtraError, MissingFileError, UserError

GAME_FILE = "game.tw-pddl"
TRAJECTORY_FILE = "traj_data.json"
SPLITS = ("train", "valid_seen", "valid_unseen")
MAX_FILE_BYTES = 32_000_000
_LONGEST_ERROR = 300  # characters; an error quotes the file, whose content is arbitrary

_SENTENCE = re.compile(r"Your task is to: ([^\"\\\n]{1,500})\.\"")
_PLACEHOLDER = "UNKNOWN GOAL"
_MOVE_TEMPLATE = "move {o} to {r}"  # before alfworld 0.4: "put {o} in/on {r}"


@dataclass(frozen=True, slots=True)
class Logic:
    """The two texts that every game file repeats: ALFRED's PDDL domain and the grammar of its sentences."""

    domain: str
    grammar: str

    @classmethod
    def installed(cls) -> Logic:
        """Return the texts of the installed `alfworld` wheel.

        Raises:
            MissingExtraError: if it is not installed; `Logic.read` reads them from files instead.
        """
        spec = importlib.util.find_spec("alfworld")
        if spec is None or spec.origin is None:
            raise MissingExtraError(
                "alfworld is not installed; it contains the PDDL domain and grammar. "
                "Run pip install 'empg[textworld]', or read them from files with Logic.read"
            )
        data = Path(spec.origin).parent / "data"
        return cls.read(data / "alfred.pddl", data / "alfred.twl2")

    @classmethod
    def read(cls, domain: str | os.PathLike[str], grammar: str | os.PathLike[str]) -> Logic:
        """Read the texts from two files."""
        return cls(Path(domain).read_text(encoding="utf-8"), Path(grammar).read_text(encoding="utf-8"))


# ---- one game -------------------------------------------------------------------------------------------------------


def read_game(path: str | os.PathLike[str]) -> Game:
    """Read one `game.tw-pddl`, and the room from the `traj_data.json` in the same folder if it exists.

    The task id consists of the names of the two parent folders and a fingerprint of problem and sentence.

    Raises:
        MissingFileError: if the file does not exist.
        UserError: if the game is not supported by this engine; the message names the file.
    """
    path = Path(path)
    data = _load(path)
    try:
        for key in ("pddl_problem", "grammar"):
            if not isinstance(data.get(key), str):
                raise UserError(f"the key {key!r} is missing or is not a string")
        if _MOVE_TEMPLATE not in data["grammar"]:
            raise UserError("the grammar is older than alfworld 0.4. Run alfworld-download again")
        sentence = _SENTENCE.search(data["grammar"])
        if sentence is None or sentence[1] == _PLACEHOLDER:
            raise UserError("the grammar does not contain 'Your task is to: ...'")
        fingerprint = hashlib.sha256(f"{sentence[1]}\n{data['pddl_problem']}".encode()).hexdigest()[:12]
        folder = path.absolute().parent
        game = parse_problem(
            data["pddl_problem"],
            task=sentence[1],
            task_id=f"{folder.parent.name}/{folder.name}-{fingerprint}",
            room=_room(folder / TRAJECTORY_FILE),
        )
        walkthrough = data.get("walkthrough")
        if isinstance(walkthrough, list) and all(isinstance(command, str) for command in walkthrough):
            game = replace(game, walkthrough=tuple(walkthrough))
        Engine(game)  # rejects an inconsistent game here, where the error can name the file
        _require_receptacles(game)
    except ValueError as error:
        raise UserError(f"{path}: {str(error)[:_LONGEST_ERROR]}") from error
    return game


def _require_receptacles(game: Game) -> None:
    """Make sure that the receptacles of the goal, which the expert goes to, are in the room.

    Raises:
        UserError: if one is missing.
    """
    there = {receptacle.type for receptacle in game.receptacles if receptacle.location}
    treatment = TREATMENTS.get(game.goal.task_type)
    for needed in (game.goal.receptacle_type, treatment and treatment.tool):
        if needed is not None and needed not in there:
            raise UserError(f"the goal needs a receptacle of the type {needed}, and none of them has a location")


def game_data(game: Game, logic: Logic) -> dict[str, Any]:
    """Return the content of a `game.tw-pddl` as the original engine loads it.

    Raises:
        UserError: if the grammar cannot contain the task sentence, or the problem cannot contain an id.
    """
    if not _SENTENCE.fullmatch(f'Your task is to: {game.task}."') or "#" in game.task or "{" in game.task:
        expected = """1 to 500 characters, none of them a line break or one of " \\ # {"""
        raise UserError(f"{game.task_id}: invalid task sentence: expected {expected}, got {game.task!r}")
    return {
        "pddl_domain": logic.domain,
        "grammar": logic.grammar.replace(_PLACEHOLDER, game.task),
        "pddl_problem": problem_text(game),
        "solvable": True,
        "walkthrough": list(game.walkthrough) if game.walkthrough is not None else None,
    }


def write_game(game: Game, folder: str | os.PathLike[str], logic: Logic | None = None) -> Path:
    """Write `game.tw-pddl` and `traj_data.json` to a folder and return the path of the former.

    `logic` defaults to the texts of the installed alfworld wheel.
    """
    folder = Path(folder)
    data = game_data(game, logic or Logic.installed())
    folder.mkdir(parents=True, exist_ok=True)
    goal = game.goal
    trajectory = {
        "images": [],
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": goal.object_type,
            "parent_target": goal.receptacle_type or "",
            "toggle_target": goal.lamp_type or "",
        },
        "plan": {},
        "scene": {"floor_plan": game.room},
        "task_id": game.task_id,
        "task_type": goal.task_type.value,
        "turk_annotations": {"anns": [{"high_descs": [], "task_desc": game.task, "votes": []}]},
    }
    (folder / TRAJECTORY_FILE).write_text(json.dumps(trajectory, indent=1) + "\n", encoding="utf-8")
    path = folder / GAME_FILE
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


# ---- the tree -------------------------------------------------------------------------------------------------------


def find_games(
    root: str | os.PathLike[str], split: str, task_types: Collection[TaskType] = tuple(TaskType)
) -> list[Path]:
    """Return the game files of a split that the official loader would play, sorted by their path inside the tree.

    `root` is the folder `json_2.1.1` or its parent. A game counts if its trajectory has a wanted task type, its path
    contains neither "movable" nor "Sliced", and its game file exists and is marked as solvable.

    Raises:
        MissingFileError: if the split does not exist or does not contain such a game.
        UserError: if the split is unknown or a file is damaged; the message names it.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split: expected one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root).expanduser()
    tree = root / "json_2.1.1" if (root / "json_2.1.1").is_dir() else root
    if not (tree / split).is_dir():
        raise MissingFileError(f"{tree / split}: folder not found. Run alfworld-download (see docs/alfworld.md)")
    wanted = [TaskType(task_type).value for task_type in task_types]
    games = []
    trajectories = ((path.relative_to(tree).as_posix(), path) for path in (tree / split).rglob(TRAJECTORY_FILE))
    for relative, trajectory in sorted(trajectories):
        game = trajectory.parent / GAME_FILE
        if "movable" in relative or "Sliced" in relative or _load(trajectory).get("task_type") not in wanted:
            continue
        if game.exists() and _load(game).get("solvable") is True:
            games.append(game)
    if not games:
        raise MissingFileError(
            f"{tree / split}: no solvable {GAME_FILE} of these task types found. Run alfworld-download"
        )
    return games


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path}: file not found")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise UserError(f"{path}: the file is too large: expected at most {MAX_FILE_BYTES} bytes, got {size}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the file is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: the file is not a JSON object")
    return data


def _room(trajectory: Path) -> str:
    scene = _load(trajectory).get("scene") if trajectory.is_file() else None
    room = scene.get("floor_plan", "") if isinstance(scene, dict) else ""
    return room if isinstance(room, str) else ""
