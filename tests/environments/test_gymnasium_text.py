"""Gymnasium environments that know nothing of this package: their episodes as tasks, and what they lack in a line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from empg.environments.base import TextEnvironment
from empg.environments.gymnasium_text import SPLITS, GymnasiumText
from empg.environments.panels import make_panel
from empg.environments.registry import Maker, find, make
from empg.errors import UserError
from empg.rollout.env_pool import ProcessEnvPool, make_env_pool
from tests.packages import ECHO, importable

ECHO_ID = "echoing:Echo-v0"


@pytest.fixture(autouse=True, scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with importable(tmp_path_factory.mktemp("echoing")) as folder:
        (folder / "echoing.py").write_text(ECHO)
        yield folder


def answer(observation: str) -> str:
    return "say " + observation.rstrip(".")[-1]


def play(environment: TextEnvironment, task: int, right: tuple[bool, ...]) -> list[tuple[float, bool, bool, dict]]:
    observation, info = environment.reset(options={"task": task})
    assert (info["won"], info["score"], info["task"]) == (False, 0.0, "repeat the number")
    turns = []
    for correct in right:
        action = answer(observation) if correct else "hm"
        observation, reward, terminated, truncated, info = environment.step(action)
        turns.append((reward, terminated, truncated, dict(info)))
    return turns


def test_an_episode_is_won_by_a_positive_return_and_scored_by_the_clipped_one() -> None:
    environment = make(ECHO_ID, "train")
    both = play(environment, 0, (True, True))
    assert [turn[:3] for turn in both] == [(0.75, False, False), (0.75, True, False)]
    assert [(turn[3]["won"], turn[3]["score"]) for turn in both] == [(False, 0.75), (True, 1.0)]
    assert both[0][3]["admissible"] == ["say 0", "say 1", "say 2"]
    assert both[0][3]["valid"]
    none = play(environment, 0, (False, False))
    assert (none[1][3]["won"], none[1][3]["score"]) == (False, 0.0)


@pytest.mark.parametrize("flag", ["won", "success", "is_success"])
def test_what_the_info_says_of_success_counts(flag: str) -> None:
    environment = make(ECHO_ID, "train", {"flag": flag})
    assert [turn[3]["won"] for turn in play(environment, 0, (True, False))] == [True, False]


def test_tasks_are_seeds_that_no_two_splits_share() -> None:
    seeds = [set(split) for split in SPLITS.values()]
    assert len(set.union(*seeds)) == sum(map(len, seeds)) == 102_000
    environment = make(ECHO_ID, "valid")
    assert environment.num_tasks == 1_000
    first = [environment.reset(options={"task": task})[0] for task in range(8)]
    assert first == [make(ECHO_ID, "valid").reset(options={"task": task})[0] for task in range(8)]
    assert len(set(first)) > 1
    reference = gymnasium.make(ECHO_ID, disable_env_checker=True)
    assert first == [reference.reset(seed=1_000_000 + task)[0] for task in range(8)]
    assert environment.reset(seed=4)[1]["task_id"] == environment.reset(seed=4)[1]["task_id"]
    with pytest.raises(IndexError, match="valid has tasks 0 to 999"):
        environment.reset(options={"task": 1_000})


def test_a_task_s_id_changes_with_its_content_and_disturbs_no_episode() -> None:
    environment = make(ECHO_ID, "valid")
    observation, info = environment.reset(options={"task": 3})
    panel = make_panel(environment, 5, "echo")
    assert environment.task_id(3) == info["task_id"]
    assert environment.step(answer(observation))[1] == 0.75  # the panel asked for other tasks in between
    other = make(ECHO_ID, "valid", {"rounds": 3})
    assert make_panel(other, 5, "echo").sha256 != panel.sha256
    assert make_panel(make(ECHO_ID, "valid"), 5, "echo").sha256 == panel.sha256


def test_a_clone_goes_its_own_way() -> None:
    environment = make(ECHO_ID, "train", {"rounds": 4})
    observation, _ = environment.reset(options={"task": 5})
    environment.step(answer(observation))
    twin = environment.clone()
    outcome = environment.step("hm")
    assert twin.step("hm") == outcome
    twin.step("hm")
    assert environment.step("hm")[2] is False


def test_an_episode_ends_at_the_limit() -> None:
    limited = make(ECHO_ID, "train", {"rounds": 9}, max_steps=2)
    assert [turn[1:3] for turn in play(limited, 0, (True, True))] == [(False, False), (False, True)]
    assert limited.max_steps == 2
    assert make("echoing:Open-v0", "train").max_steps == 3  # what its registration says
    assert make(ECHO_ID, "train").max_steps == 50
    with pytest.raises(UserError, match="max_steps: expected a whole number from 1 to"):
        make(ECHO_ID, "train", max_steps=0)


def test_a_limit_of_the_recipe_is_that_of_the_episode_whatever_the_registration_says() -> None:
    gymnasium.register("empg-test/Brief-v0", entry_point="echoing:Echo", max_episode_steps=2, kwargs={"rounds": 9})
    turns = play(make("empg-test/Brief-v0", "train", max_steps=4), 0, (True,) * 4)
    assert [turn[1:3] for turn in turns] == [(False, False)] * 3 + [(False, True)]


def test_closing_a_clone_leaves_the_original_open() -> None:
    environment = make("echoing:Closing-v0", "train")
    environment.reset(options={"task": 0})
    first = environment.task_id(0)
    environment.clone().close()
    assert environment.task_id(0) == first


def test_an_environment_with_a_lock_is_evaluated_but_not_cloned() -> None:
    environment = make("echoing:Locked-v0", "valid")
    observation, info = environment.reset(options={"task": 2})
    assert environment.task_id(2) == info["task_id"]
    assert len(set(make_panel(environment, 3, "echo").task_ids)) == 3
    assert environment.step(answer(observation))[1] == 0.75  # the panel disturbed no episode
    with pytest.raises(UserError, match=r"^echoing:Locked-v0 cannot be cloned: TypeError: cannot pickle .*lock"):
        environment.clone()


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ValueError("ctypes objects with pointers"), "ValueError: ctypes objects with pointers"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_whatever_copying_raises_is_one_line(raised: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make(ECHO_ID, "train")
    assert isinstance(environment, GymnasiumText)

    def uncopied(self: object, memo: object) -> None:
        raise raised

    monkeypatch.setattr(type(environment.environment.unwrapped), "__deepcopy__", uncopied, raising=False)
    with pytest.raises(UserError, match=rf"^{ECHO_ID} cannot be cloned: {reason}\. Give its class a __deepcopy__ "):
        environment.clone()


def test_open_spaces_are_no_obstacle() -> None:
    environment = make("echoing:Open-v0", "train")
    assert isinstance(environment, GymnasiumText)
    assert environment.reset(options={"task": 0})[0].startswith("Round 0")


def test_a_text_environment_is_taken_as_it_is() -> None:
    gymnasium.register("empg-test/House-v0", entry_point="empg.environments.alfworld:ALFWorldEnv")
    made = make("empg-test/House-v0", "valid_seen", {"rooms": "small"}, 7)
    assert type(made).__name__ == "ALFWorldEnv"
    assert (made.split, made.max_steps) == ("valid_seen", 7)
    with pytest.raises(UserError, match="unknown key 'roms'; did you mean 'rooms'"):
        make("empg-test/House-v0", "train", {"roms": "small"})


@pytest.mark.parametrize(
    ("id_", "split", "options", "message"),
    [
        (
            "echoing:Buttons-v0",
            "train",
            {},
            r"Buttons-v0 is not a text environment: expected .* Discrete\(3\)\.",
        ),
        ("echoing:Pictures-v0", "train", {}, "echoing:Pictures-v0 is not a text environment"),
        ("CartPole-v1", "train", {}, "CartPole-v1 is not a text environment"),
        ("echoing:Needy-v0", "train", {}, "'echoing:Needy-v0' cannot be made: DependencyNotInstalled: pip install it"),
        ("empg-test/Lost-v0", "train", {}, "'empg-test/Lost-v0' cannot be made: ModuleNotFoundError: No module"),
        (ECHO_ID, "dev", {}, "split: expected train, valid, test, got 'dev'"),
        (ECHO_ID, "train", {"size": 3}, "cannot be made with these options: got an unexpected keyword argument 'size'"),
    ],
)
def test_what_does_not_fit_is_one_line(id_: str, split: str, options: dict[str, object], message: str) -> None:
    if "empg-test/Lost-v0" not in gymnasium.registry:
        gymnasium.register("empg-test/Lost-v0", entry_point="absent_module:Lost")
    with pytest.raises(UserError, match=message) as caught:
        make(id_, split, options)
    assert "\n" not in str(caught.value)


def test_there_is_no_expert() -> None:
    environment = make(ECHO_ID, "train")
    environment.reset(options={"task": 0})
    with pytest.raises(UserError, match="echoing:Echo-v0 has no expert, which warm_start and --expert need"):
        environment.expert()


def test_its_spec_says_what_is_evaluated() -> None:
    spec = find(ECHO_ID)
    assert (spec.id, spec.gymnasium_id, spec.panels, spec.entry_point) == (ECHO_ID, ECHO_ID, ("valid",), None)


def test_a_worker_process_imports_the_module_of_the_id() -> None:
    pool = make_env_pool(Maker(find(ECHO_ID), "valid", {"rounds": 3}), 1)
    assert isinstance(pool, ProcessEnvPool)
    try:
        (begun,) = pool.reset([0], [2])
        assert begun.error is None
        assert begun.observation == make(ECHO_ID, "valid").reset(options={"task": 2})[0]
        (outcome,) = pool.step([0], [answer(begun.observation)])
        assert (outcome.error, outcome.reward) == (None, 0.75)
    finally:
        ProcessEnvPool.close(pool)


def test_an_id_that_only_the_parent_process_has_registered_is_one_line_in_a_worker() -> None:
    gymnasium.register("empg-test/Here-v0", entry_point="echoing:Echo")
    pool = ProcessEnvPool(Maker(find("empg-test/Here-v0"), "train"), 1)
    try:
        (begun,) = pool.reset([0], [0])
    finally:
        pool.close()
    assert begun.error is not None
    assert "'empg-test/Here-v0' is not registered in this process: write the id as package.module:Id" in begun.error


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = = 1", "SyntaxError: invalid syntax"),
        ("raise KeyError('two\\nlines')", "KeyError: 'two"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(package: Path, code: str, message: str) -> None:
    (package / "faulty.py").write_text(code)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=f"'faulty:Id-v0': the module faulty cannot be imported: {message}") as caught:
        find("faulty:Id-v0")
    assert "\n" not in str(caught.value)
