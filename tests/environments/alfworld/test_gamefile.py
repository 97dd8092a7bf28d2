"""Official game files: round trips, the folder tree, and malformed files."""

from __future__ import annotations

import gc
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from empg.environments.alfworld import env as env_module
from empg.environments.alfworld import gamefile, textworld
from empg.environments.alfworld.env import ALFWorldEnv
from empg.environments.alfworld.gamefile import Logic, find_games, game_data, read_game, write_game
from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Game, TaskType
from empg.errors import MissingExtraError
from tests.environments.alfworld.rooms import bedroom, kitchen, oddities

# The parts of alfworld's two texts that reading needs.
LOGIC = Logic("(define (domain alfred))", '"rhs": "Your task is to: UNKNOWN GOAL." template :: "move {o} to {r}";')


def _log(game: Game, seed: int) -> list[object]:
    """Return everything that a random player observes."""
    rng = random.Random(seed)
    engine = Engine(game)
    state = engine.start()
    log: list[object] = [engine.opening(state)]
    for _ in range(40):
        commands = engine.admissible(state)
        log += [commands, engine.step(state, rng.choice(commands)), state.won]
    return log


# ---- one game -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "game",
    [kitchen(), bedroom(), oddities(), *(generate("valid_seen", index) for index in range(8))],
    ids=lambda game: game.task,
)
def test_a_written_and_read_game_plays_the_same(game: Game, tmp_path: Path):
    back = read_game(write_game(game, tmp_path, LOGIC))
    assert back.task == game.task
    assert back.goal == game.goal
    assert back.room == game.room
    assert [_log(back, seed) for seed in range(3)] == [_log(game, seed) for seed in range(3)]


def test_the_walkthrough_survives_the_round_trip(tmp_path: Path):
    game = replace(kitchen(), walkthrough=("go to fridge 1", "look"))
    assert read_game(write_game(game, tmp_path, LOGIC)).walkthrough == ("go to fridge 1", "look")


def test_the_file_has_the_keys_of_the_official_ones(tmp_path: Path):
    path = write_game(bedroom(), tmp_path, LOGIC)
    assert path.name == "game.tw-pddl"
    data = json.loads(path.read_text())
    assert sorted(data) == ["grammar", "pddl_domain", "pddl_problem", "solvable", "walkthrough"]
    assert data["solvable"] is True
    assert "Your task is to: look at pencil under the desklamp." in data["grammar"]
    trajectory = json.loads((tmp_path / "traj_data.json").read_text())
    assert trajectory["task_type"] == "look_at_obj_in_light"
    assert trajectory["pddl_params"] == {
        "mrecep_target": "",
        "object_sliced": False,
        "object_target": "Pencil",
        "parent_target": "",
        "toggle_target": "DeskLamp",
    }


def test_the_task_id_follows_the_content(tmp_path: Path):
    first = read_game(write_game(kitchen(), tmp_path / "task" / "trial", LOGIC)).task_id
    again = read_game(write_game(kitchen(), tmp_path / "elsewhere" / "task" / "trial", LOGIC)).task_id
    other = read_game(write_game(kitchen(TaskType.COOL), tmp_path / "task" / "trial", LOGIC)).task_id
    assert first == again
    assert first.startswith("task/trial-")
    assert other.startswith("task/trial-")
    assert other != first


@pytest.mark.parametrize("task", ['put "it" there', "put {o} there", "#look.feedback#", "a\\n", "", "x" * 501, "a\nb"])
def test_a_sentence_with_special_characters_is_rejected(task: str):
    with pytest.raises(ValueError, match="by hand: invalid task sentence: expected 1 to 500 characters"):
        game_data(replace(kitchen(), task=task), LOGIC)


def test_alfworlds_own_domain_and_grammar_are_found():
    pytest.importorskip("alfworld.info", reason="needs empg[textworld]")
    logic = Logic.installed()
    assert "(:action GotoLocation" in logic.domain
    assert logic.grammar.count("UNKNOWN GOAL") == 1
    assert "move {o} to {r}" in logic.grammar


class FakeEngine:
    """The part of the original engine that loading a game needs."""

    def load(self, data: dict[str, Any]) -> None:
        self.data = data


def test_the_engine_of_a_closed_or_discarded_game_is_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeEngine] = []

    def new_engine() -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr(textworld, "_idle", [])
    monkeypatch.setattr(textworld, "_new_engine", new_engine)
    closed, forgotten = textworld.RealGame(kitchen(), LOGIC), textworld.RealGame(kitchen(), LOGIC)
    closed.close()
    closed.close()
    assert textworld._idle == made[:1]
    del forgotten
    gc.collect()
    assert textworld._idle == made
    del closed
    gc.collect()
    assert textworld._idle == made  # each engine is returned only once
    textworld.RealGame(kitchen(), LOGIC)
    assert len(made) == 2


def test_the_error_without_alfworld_names_the_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "alfworld", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'empg\[textworld\]'"):
        Logic.installed()
    monkeypatch.setattr(textworld, "_idle", [])
    with pytest.raises(MissingExtraError, match=r"not installed: pip install 'empg\[textworld\]'"):
        textworld.RealGame(kitchen(), LOGIC)


# ---- malformed files ------------------------------------------------------------------------------------------------


def _write(path: Path, change: dict[str, Any]) -> Path:
    data = {**game_data(kitchen(), LOGIC), **change}
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "missing"}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pddl_problem": "missing"}, "the key 'pddl_problem' is missing or is not a string"),
        ({"pddl_problem": {"a": 1}}, "the key 'pddl_problem' is missing or is not a string"),
        ({"grammar": "missing"}, "the key 'grammar' is missing or is not a string"),
        ({"grammar": 'Your task is to: win." put {o} in/on {r}'}, "older than alfworld 0.4"),
        ({"grammar": "move {o} to {r}"}, "does not contain 'Your task is to: ...'"),
        ({"grammar": LOGIC.grammar}, "does not contain 'Your task is to: ...'"),
        ({"pddl_problem": "(" * 100_000}, "nested too deeply: expected at most 64 levels"),
        ({"pddl_problem": "hello"}, "no :init section"),
        ({"pddl_problem": "(:init (atLocation " + "x " * 100_000 + ")) (:goal)"}, "not one complete expression"),
        ({"pddl_problem": "((:init (atLocation " + "x " * 100_000 + ")) (:goal))"}, "takes two arguments"),
    ],
)
def test_the_error_for_a_malformed_game_is_one_line_with_the_path(tmp_path: Path, change: dict[str, Any], message: str):
    path = _write(tmp_path / "game.tw-pddl", change)
    with pytest.raises(ValueError, match=message) as caught:
        read_game(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("fact", "other", "message"),
    [
        ("(inReceptacle Egg_bar_1 Fridge_bar_4)", "(inReceptacle Egg_bar_1 Attic)", "lies in Attic, which is not"),
        ("(cleanable Egg_bar_1)", "(inReceptacleObject Ghost Egg_bar_1)", "contains Ghost, which is not an item"),
        ("(cleanable Egg_bar_1)", "(objectType Fridge_bar_4 EggType)", "two things have the same id"),
        (
            "(receptacleAtLocation Cabinet_bar_1 loc_bar_1)",
            "(receptacleAtLocation Cabinet_bar_2 loc_bar_1)",
            "receptacle Cabinet_bar_2 is at two locations, loc_bar_1 and loc_bar_2, which is not supported",
        ),
        (
            "(receptacleAtLocation Microwave_bar_5 loc_bar_5)",
            "(receptacleAtLocation Microwave_bar_5)",
            "receptacleAtLocation takes two arguments",
        ),
        (
            "(receptacleAtLocation Microwave_bar_5 loc_bar_5)",
            "",
            "the goal needs a receptacle of the type Microwave, and none of them has a location",
        ),
        (
            "(receptacleType ?r CabinetType)",
            "(receptacleType ?r SafeType)",
            "the goal needs a receptacle of the type Safe, and none of them has a location",
        ),
    ],
)
def test_an_inconsistent_game_is_rejected(tmp_path: Path, fact: str, other: str, message: str):
    problem = game_data(kitchen(), LOGIC)["pddl_problem"]
    assert fact in problem
    path = _write(tmp_path / "game.tw-pddl", {"pddl_problem": problem.replace(fact, other)})
    with pytest.raises(ValueError, match=message) as caught:
        read_game(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 1_000_000, b"null", b"NaN", b"9" * 10_000])
def test_a_file_that_is_not_a_json_object_is_rejected(tmp_path: Path, content: bytes):
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not (JSON|a JSON object)") as caught:
        read_game(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_game(kitchen(), tmp_path, LOGIC)
    monkeypatch.setattr(gamefile, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="too large: expected at most 100 bytes"):
        read_game(path)


def test_the_error_for_a_missing_file_names_the_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/game.tw-pddl: file not found"):
        read_game(tmp_path / "nowhere" / "game.tw-pddl")


# ---- the tree -------------------------------------------------------------------------------------------------------


def _trial(tree: Path, split: str, task: str, game: Game, **trajectory: object) -> Path:
    folder = tree / split / task / "trial_T1"
    path = write_game(game, folder, LOGIC)
    data = json.loads((folder / "traj_data.json").read_text())
    (folder / "traj_data.json").write_text(json.dumps({**data, **trajectory}))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "json_2.1.1"
    _trial(tree, "train", "pick_heat_then_place_in_recep-Mug-None-Cabinet-1", kitchen())
    _trial(tree, "train", "look_at_obj_in_light-Pencil-None-DeskLamp-301", bedroom())
    _trial(tree, "train", "pick_and_place_with_movable_recep-Mug-Pan-Cabinet-1", kitchen())
    _trial(tree, "train", "pick_and_place_simple-BreadSliced-None-Shelf-1", oddities())
    _trial(tree, "train", "stack-Mug-None-Cabinet-2", kitchen(), task_type="stack_things")
    _trial(tree, "train", "odd-Mug-None-Cabinet-2", kitchen(), task_type=["a", "list"])
    unsolvable = _trial(tree, "train", "pick_cool_then_place_in_recep-Mug-None-Cabinet-3", kitchen(TaskType.COOL))
    _write(unsolvable, {"solvable": False})
    _trial(tree, "train", "pick_cool_then_place_in_recep-Mug-None-Cabinet-4", kitchen(TaskType.COOL)).unlink()
    lost = _trial(tree, "train", "pick_cool_then_place_in_recep-Mug-None-Cabinet-5", kitchen(TaskType.COOL))
    (lost.parent / "traj_data.json").unlink()
    _trial(tree, "valid_seen", "pick_two_obj_and_place-Mug-None-Cabinet-6", kitchen(TaskType.PICK_TWO))
    return tree


PLAYABLE = ["look_at_obj_in_light-Pencil-None-DeskLamp-301", "pick_heat_then_place_in_recep-Mug-None-Cabinet-1"]


def test_find_games_returns_the_games_of_the_official_loader(tree: Path):
    assert [path.parents[1].name for path in find_games(tree, "train")] == PLAYABLE
    assert find_games(tree.parent, "train") == find_games(tree, "train")


def test_a_tilde_is_expanded_to_the_home_folder(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tree.parent))
    assert find_games("~/json_2.1.1", "train") == find_games(tree, "train")


def test_task_types_are_selected(tree: Path):
    found = find_games(tree, "train", [TaskType.LOOK])
    assert [path.parents[1].name for path in found] == PLAYABLE[:1]


def test_the_environment_plays_the_tree(tree: Path):
    env = ALFWorldEnv("train", games=tree)
    assert env.num_tasks == 2
    observation, info = env.reset(options={"task": 1})
    assert observation.endswith("Your task is to: put a hot mug in cabinet.")
    assert info["task_type"] == "pick_heat_then_place_in_recep"
    expert, reward, over = env.expert(), 0.0, False
    while not over:
        observation, reward, won, lost, info = env.step(expert.act(observation, info)["action"])
        over = won or lost
    assert reward == 1.0


def test_all_environments_share_one_scan_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []

    def counted(*arguments: Any) -> list[Path]:
        scans.append(arguments)
        return find_games(*arguments)

    monkeypatch.setattr(env_module, "find_games", counted)
    first = ALFWorldEnv("train", games=tree)
    others = [ALFWorldEnv("train", games=str(tree)) for _ in range(3)]
    assert len(scans) == 1
    assert {other.num_tasks for other in others} == {first.num_tasks}
    ALFWorldEnv("valid_seen", games=tree)
    ALFWorldEnv("train", games=tree, task_types=[TaskType.HEAT])
    assert len(scans) == 3


def test_the_error_for_a_missing_split_names_it(tree: Path):
    with pytest.raises(FileNotFoundError, match=r"valid_unseen: folder not found. Run alfworld-download"):
        find_games(tree, "valid_unseen")
    with pytest.raises(ValueError, match="unknown split: expected one of train, valid_seen, valid_unseen, got 'test'"):
        find_games(tree, "test")


def test_a_split_without_games_is_an_error(tree: Path):
    with pytest.raises(FileNotFoundError, match=r"valid_seen: no solvable game\.tw-pddl of these task types"):
        find_games(tree, "valid_seen", [TaskType.LOOK])


@pytest.mark.parametrize("name", ["traj_data.json", "game.tw-pddl"])
def test_the_error_for_a_damaged_file_in_the_tree_names_it(tree: Path, name: str):
    path = tree / "train" / PLAYABLE[0] / "trial_T1" / name
    path.write_text('{"half": ')
    with pytest.raises(ValueError, match="not JSON") as caught:
        find_games(tree, "train")
    assert str(caught.value).startswith(f"{path}: ")
