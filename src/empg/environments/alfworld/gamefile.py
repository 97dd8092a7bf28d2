"""Official game files: `game.tw-pddl`, and the tree `json_2.1.1/<split>/<task>/<trial>/` of `alfworld-download`.

Reading needs nothing but this package. Writing needs the text of ALFRED's domain and grammar, which the `alfworld`
wheel carries and this package does not.
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
from empg.environments.alfworld.world import Game, TaskType
from empg.errors import MissingExtraError, MissingFileError, UserError

GAME_FILE = "game.tw-pddl"
TRAJECTORY_FILE = "traj_data.json"
SPLITS = ("train", "valid_seen", "valid_unseen")
MAX_FILE_BYTES = 32_000_000
_LONGEST_ERROR = 300  # an error quotes the file, and a file may hold anything

_SENTENCE = re.compile(r"Your task is to: ([^\"\\\n]{1,500})\.\"")
_PLACEHOLDER = "UNKNOWN GOAL"
_MOVE_TEMPLATE = "move {o} to {r}"  # alfworld before 0.4 said "put {o} in/on {r}"


@dataclass(frozen=True, slots=True)
class Logic:
    """The two texts that a game file repeats: ALFRED's PDDL domain and the grammar of its sentences."""

    domain: str
    grammar: str

    @classmethod
    def installed(cls) -> Logic:
        """The texts of the installed `alfworld` wheel.

        Raises:
            ModuleNotFoundError: if it is not installed; `Logic.read` takes them from files instead.
        """
        spec = importlib.util.find_spec("alfworld")
        if spec is None or spec.origin is None:
            raise MissingExtraError(
                "the PDDL domain and grammar come with alfworld: pip install 'empg[textworld]', or give them as files"
            )
        data = Path(spec.origin).parent / "data"
        return cls.read(data / "alfred.pddl", data / "alfred.twl2")

    @classmethod
    def read(cls, domain: str | os.PathLike[str], grammar: str | os.PathLike[str]) -> Logic:
        """The texts of two files."""
        return cls(Path(domain).read_text(encoding="utf-8"), Path(grammar).read_text(encoding="utf-8"))


# ---- one game -------------------------------------------------------------------------------------------------------


def read_game(path: str | os.PathLike[str]) -> Game:
    """Reads one `game.tw-pddl`, and the room from the `traj_data.json` beside it if there is one.

    The task id is the names of the two folders around the file and a fingerprint of problem and sentence.

    Raises:
        MissingFileError: if there is no such file.
        UserError: if it is not a game that this engine plays; the message names the file.
    """
    path = Path(path)
    data = _load(path)
    try:
        for key in ("pddl_problem", "grammar"):
            if not isinstance(data.get(key), str):
                raise UserError(f"the key {key!r} is missing or not a text")
        if _MOVE_TEMPLATE not in data["grammar"]:
            raise UserError("its grammar is older than alfworld 0.4; run alfworld-download again")
        sentence = _SENTENCE.search(data["grammar"])
        if sentence is None or sentence[1] == _PLACEHOLDER:
            raise UserError("its grammar does not say 'Your task is to: ...'")
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
        Engine(game)  # a game that makes no sense is refused here, where the name of its file is known
    except ValueError as error:
        raise UserError(f"{path}: {str(error)[:_LONGEST_ERROR]}") from error
    return game


def game_data(game: Game, logic: Logic) -> dict[str, Any]:
    """The content of a `game.tw-pddl`, as the real engine loads it.

    Raises:
        UserError: if the sentence of the task could not stand in the grammar, or an id in the problem.
    """
    if not _SENTENCE.fullmatch(f'Your task is to: {game.task}."') or "#" in game.task or "{" in game.task:
        raise UserError(f"{game.task_id}: the task {game.task!r} has characters that the grammar gives a meaning")
    return {
        "pddl_domain": logic.domain,
        "grammar": logic.grammar.replace(_PLACEHOLDER, game.task),
        "pddl_problem": problem_text(game),
        "solvable": True,
        "walkthrough": list(game.walkthrough) if game.walkthrough is not None else None,
    }


def write_game(game: Game, folder: str | os.PathLike[str], logic: Logic | None = None) -> Path:
    """Writes `game.tw-pddl` and `traj_data.json` into a folder, and returns the path of the first.

    `logic` defaults to that of the installed alfworld wheel.
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
    """The game files of a split which the official loader would play, ordered by their path inside the tree.

    `root` is the folder `json_2.1.1` or the one that holds it. A game counts if it has a trajectory of a wanted task
    type, no movable receptacle and no slicing in its path, a game file, and that file says it is solvable.

    Raises:
        MissingFileError: if the split is not there, or holds no game.
        UserError: if a file is broken; the message names it.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    root = Path(root).expanduser()
    tree = root / "json_2.1.1" if (root / "json_2.1.1").is_dir() else root
    if not (tree / split).is_dir():
        raise MissingFileError(f"{tree / split}: no such folder; alfworld-download makes it (see docs/alfworld.md)")
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
        raise MissingFileError(f"{tree / split}: no solvable {GAME_FILE} of these task types; run alfworld-download")
    return games


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: over {MAX_FILE_BYTES} bytes, which no game file is")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object")
    return data


def _room(trajectory: Path) -> str:
    scene = _load(trajectory).get("scene") if trajectory.is_file() else None
    room = scene.get("floor_plan", "") if isinstance(scene, dict) else ""
    return room if isinstance(room, str) else ""
