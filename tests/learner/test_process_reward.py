"""Progress or a user function gives each turn a reward in addition to the clarity bonus, or is refused in one line."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.errors import UserError
from empg.learner.assign import assign_credit
from empg.learner.process_reward import load_step_rewards, process_rewards, progress_rewards, step_rewards
from empg.recipe.process_reward import read_process_reward
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.learner.plays import episode, recipe, turn, two_groups

JUDGES = """
seen = []

def last_turn(episode):
    seen.append(episode)
    return [0.0] * (len(episode.turns) - 1) + [0.9]

def too_short(episode):
    return []

def nonsense(episode):
    return [float("nan")] * len(episode.turns)

def raising(episode):
    return [1 / 0]

def nothing(episode):
    pass

def huge(episode):
    return [1e39] * len(episode.turns)

def text(episode):
    return "12"

def texts(episode):
    return ["1", "2"]

def exiting(episode):
    raise SystemExit(3)

def tensor(episode):
    import torch
    return torch.ones(len(episode.turns), requires_grad=True)

def of_two(episode, turn):
    pass

def one_by_one(episode):
    for number, turn in enumerate(episode.turns):
        yield number

def failing_later(episode):
    for turn in episode.turns:
        yield {}["score"]

class Unreadable:
    def __iter__(self):
        raise AttributeError("no score")

def unreadable(episode):
    return Unreadable()

not_a_function = 3
"""
BROKEN = {
    "broken_judge": "def f(episode):\n    pass\ndef g(:\n",
    "lacking_judge": "import torch_of_another_day\n",
    "old_judge": "from math import gone\n",
    "failing_judge": "settings = {}\nsettings['token']\n",
    "exiting_judge": "import sys\nsys.exit('no key')\n",
}
ALONE = Workers()


@pytest.fixture(autouse=True)
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judges_of_this_test.py").write_text(JUDGES)
    for name, text in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "judges_of_this_test", raising=False)
    load_step_rewards.cache_clear()


@pytest.mark.parametrize("modulation", [None, "centred"])
def test_it_is_added_to_the_bonus_and_the_penalty(modulation: str | None) -> None:
    plain = {"modulation": modulation, "invalid_penalty": 0.5}
    episodes = two_groups()
    episodes[0].turns[0].valid = False
    without = assign_credit(episodes, recipe(credit=plain), ALONE)
    judged = assign_credit(episodes, recipe(credit={**plain, "process_reward": "judges_of_this_test:last_turn"}), ALONE)
    ends = torch.tensor([0.0, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9, 0.0, 0.9])  # of nine steps five are an episode's last
    wanted = ends if modulation is None else ends - ends.mean()
    torch.testing.assert_close(judged.advantages - without.advantages, wanted)


def test_it_is_called_only_for_episodes_that_are_trained_on() -> None:
    lost = [episode(2, 0.0, turn([1], [2]), turn([3], [4], process_reward=0.25)) for _ in range(2)]
    episodes = [*lost, *two_groups()]
    credit = {"process_reward": "judges_of_this_test:last_turn", "modulation": None}
    seen = importlib.import_module("judges_of_this_test").seen
    dropped = assign_credit(episodes, recipe(credit={**credit, "drop_zero_variance": True}), ALONE)
    assert seen == episodes[2:]
    assert dropped.process_reward[:4].tolist() == [0, 0.25, 0, 0.25]
    kept = assign_credit(episodes, recipe(credit=credit), ALONE)
    assert seen[5:] == episodes
    torch.testing.assert_close(kept.process_reward[:4], torch.tensor([0, 0.25 + 0.9, 0, 0.25 + 0.9]))
    assert torch.equal(kept.process_reward[4:], dropped.process_reward[4:])


def test_an_exception_of_the_function_is_shown_with_its_place() -> None:
    place = r"ZeroDivisionError: division by zero \(.*judges_of_this_test\.py, line 15\)$"
    with pytest.raises(UserError, match=rf"^credit\.process_reward=judges_of_this_test:raising: task t: {place}"):
        step_rewards(two_groups()[0], "judges_of_this_test:raising")


def test_a_function_does_not_end_the_process() -> None:
    with pytest.raises(UserError, match=r":exiting: task t: SystemExit: 3 \(.*judges_of_this_test\.py, line \d+\)$"):
        step_rewards(two_groups()[0], "judges_of_this_test:exiting")


@pytest.mark.filterwarnings("error")
def test_a_tensor_may_require_grad() -> None:
    assert step_rewards(two_groups()[0], "judges_of_this_test:tensor") == [1.0, 1.0]


def test_without_a_process_reward_it_is_zero() -> None:
    assert process_rewards(two_groups()[:2], None) == [[0.0, 0.0], [0.0]]


def test_a_function_has_a_weight() -> None:
    chosen = read_process_reward({"name": "judges_of_this_test:last_turn", "weight": 0.5})
    assert process_rewards(two_groups()[:2], chosen) == [[0.0, 0.45], [0.45]]


def progressing() -> Episode:
    """An episode that is at 0.25 before its first turn, and then at 0.5, 0.25 and 1."""
    turns = [turn([1], [2], progress=progress) for progress in (0.5, 0.25, 1.0)]
    return replace(episode(0, 1.0, *turns), progress=0.25)


@pytest.mark.parametrize(
    ("gamma", "wanted"),
    [(1.0, [0.25, -0.25, 0.75]), (0.5, [0.25 - 0.25, 0.125 - 0.5, 0.5 - 0.25]), (0.0, [-0.25, -0.5, -0.25])],
)
def test_progress_rewards_by_hand(gamma: float, wanted: list[float]) -> None:
    chosen = read_process_reward({"name": "progress", "weight": 0.5, "gamma": gamma})
    assert process_rewards([progressing()], chosen) == [[0.5 * reward for reward in wanted]]


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_the_rewards_of_progress_add_up_to_the_progress_of_the_episode(known: list[float]) -> None:
    played = episode(0, 1.0, *(turn([1], [2], progress=progress) for progress in known[1:]))
    rewards = progress_rewards(replace(played, progress=known[0]), 1.0)
    assert sum(rewards) == pytest.approx(known[-1] - known[0])


def test_progress_reaches_the_advantage_of_its_step() -> None:
    episodes = two_groups()
    episodes[0].turns[0].progress = 0.5
    episodes[0].turns[1].progress = 1.0
    plain = {"modulation": None}
    without = assign_credit(episodes, recipe(credit=plain), ALONE)
    shaped = assign_credit(episodes, recipe(credit={**plain, "process_reward": "progress"}), ALONE)
    torch.testing.assert_close(shaped.advantages - without.advantages, torch.tensor([0.05, 0.05] + [0.0] * 7))


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("too_short", r"\["),
        ("nonsense", r"\["),
        ("nothing", "None"),
        ("huge", r"\[1e\+39"),
        ("text", "'12'"),
        ("texts", r"\['1', '2'\]"),
    ],
)
def test_anything_but_one_number_per_turn_is_refused(name: str, got: str) -> None:
    with pytest.raises(
        UserError, match=rf"{name}: task t: expected 2 finite numbers of at most 1e\+15, one per turn, got {got}"
    ):
        step_rewards(two_groups()[0], f"judges_of_this_test:{name}")


def test_a_generator_is_a_function_whose_errors_are_its_own() -> None:
    assert step_rewards(two_groups()[0], "judges_of_this_test:one_by_one") == [0.0, 1.0]
    with pytest.raises(
        UserError, match=r":failing_later: task t: KeyError: 'score' \(.*judges_of_this_test\.py, line \d+"
    ):
        step_rewards(two_groups()[0], "judges_of_this_test:failing_later")


def test_a_value_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"unreadable: task t: expected 2 finite numbers"):
        step_rewards(two_groups()[0], "judges_of_this_test:unreadable")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("judges_of_this_test", "expected the form package.module:function"),
        (":last_turn", "expected the form package.module:function"),
        ("judges_of_this_test:a.b", "expected the form package.module:function"),
        ("no_such_module:f", "No module named 'no_such_module'; install it"),
        ("judges_of_this_test:missing", "judges_of_this_test has no function missing"),
        ("judges_of_this_test:not_a_function", "judges_of_this_test has no function not_a_function"),
        ("judges_of_this_test:of_two", r"expected a function of one argument, got of_two\(episode, turn\)"),
        ("broken_judge:f", r"broken_judge cannot be imported: SyntaxError: .* \(.*broken_judge\.py, line 3\)"),
        ("lacking_judge:f", "No module named 'torch_of_another_day'; install it"),
        ("old_judge:f", r"ImportError: cannot import name 'gone' from 'math' .*old_judge\.py, line 1\)"),
        ("failing_judge:f", r"failing_judge cannot be imported: KeyError: 'token' \(.*failing_judge\.py, line 2\)"),
        ("exiting_judge:f", r"exiting_judge cannot be imported: SystemExit: no key \(.*exiting_judge\.py, line 2\)"),
    ],
)
def test_a_name_that_cannot_be_loaded_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^credit\.process_reward={name}:? ?.*{reason}") as caught:
        load_step_rewards(name)
    assert "\n" not in str(caught.value)
