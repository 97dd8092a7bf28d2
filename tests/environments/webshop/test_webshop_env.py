"""The environment: its contract, its options, and properties that hold on any walk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import write_official

from empg.environments.base import Expert, TextEnvironment
from empg.environments.webshop import WebShopEnv
from empg.environments.webshop.world import Page, State

COMMANDS = st.one_of(
    st.sampled_from(["search[<r>]", "search[red]", "search[<c> beauty]", "click[buy now]", "nonsense", "search[ ]"]),
    st.integers(0, 50),  # one of the admissible
    st.text(max_size=12),
    st.text(max_size=8).map(lambda text: f"click[{text}]"),
    st.text(max_size=8).map(lambda text: f"search[{text}]"),
)


def command(choice: int | str, admissible: list[str]) -> str:
    if isinstance(choice, str):
        return choice
    return admissible[choice % len(admissible)] if admissible else "click[a]"


@settings(max_examples=150, deadline=None)
@given(
    task=st.integers(0, 10_000), choices=st.lists(COMMANDS, max_size=25), mode=st.sampled_from(["text", "text_rich"])
)
def test_on_any_walk(task: int, choices: list[int | str], mode: str) -> None:
    environment = WebShopEnv("train", products=120, observation=mode)
    _, info = environment.reset(options={"task": task % environment.num_tasks})
    for number, choice in enumerate(choices, start=1):
        action = command(choice, info["admissible"])
        listed = action in info["admissible"]
        twin = environment.clone()
        outcome = environment.step(action)
        observation, reward, terminated, truncated, info = outcome
        assert twin.step(action) == outcome  # a clone goes on the same way
        assert 0 <= reward <= 1
        assert info["valid"] or not listed
        assert info["won"] == (reward == 1.0)
        assert terminated == (environment.state.page is Page.DONE)
        assert truncated == (number == environment.max_steps and not terminated)
        assert terminated or (reward, info["score"]) == (0.0, 0.0)
        if mode == "text" and not terminated:
            assert info["task"] in observation
        if terminated or truncated:
            break


def test_everything_admissible_does_something() -> None:
    environment = WebShopEnv("train", products=120)
    dice = random.Random(0)
    for task in range(30):
        _, info = environment.reset(options={"task": task})
        for _ in range(6):
            for action in info["admissible"]:
                assert environment.clone().step(action)[4]["valid"], action
            action = dice.choice([a for a in info["admissible"] if a != "click[buy now]"])
            action = "search[red]" if action.startswith("search") else action
            _, _, _, _, info = environment.step(action)


def test_the_contract() -> None:
    environment = WebShopEnv("dev", max_steps=3)
    assert isinstance(environment, TextEnvironment)
    observation, info = environment.reset(options={"task": 7})
    assert set(info) == {"task", "task_id", "task_type", "won", "score", "admissible", "valid"}
    assert info["task_id"] == environment.task_id(7)
    assert info["admissible"] == ["search[<your query>]"]
    assert info["task"] in observation
    assert isinstance(environment.expert(), Expert)
    for _ in range(2):
        assert environment.step("nonsense")[3] is False
    assert environment.step("nonsense")[2:4] == (False, True)
    environment.reset(options={"task": 7})
    assert environment.state == State()


def test_buying_ends_the_episode() -> None:
    environment = WebShopEnv("train")
    environment.reset(options={"task": 0})
    environment.step("search[<r>]")
    environment.step(environment._observe(True, None)[1]["admissible"][-1])
    _, reward, terminated, truncated, info = environment.step("click[Buy Now]")
    assert (terminated, truncated, info["admissible"]) == (True, False, [])
    assert reward == info["score"] < 1
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("search[more]")


def test_a_clone_goes_its_own_way() -> None:
    environment = WebShopEnv("train")
    environment.reset(options={"task": 0})
    environment.step("search[red]")
    twin = environment.clone()
    twin.step("search[blue]")
    twin.state.options["x"] = "y"
    twin.state.visited.add("z")
    assert environment.state == State(Page.RESULTS, ("red",), draw=1, steps=1)
    assert twin.shop is environment.shop


def test_binary_reward_is_1_for_a_full_score_only() -> None:
    graded, binary = WebShopEnv("train"), WebShopEnv("train", reward="binary")
    for actions, full in ((("search[<r>]",), False), ((), True)):
        outcomes = []
        for environment in (graded, binary):
            observation, info = environment.reset(options={"task": 3})
            expert = environment.expert()
            for action in actions:
                _, _, _, _, info = environment.step(action)
            if full:
                terminated = False
                while not terminated:
                    observation, reward, terminated, _, info = environment.step(expert.act(observation, info)["action"])
            else:
                environment.step(info["admissible"][-1])
                _, reward, _, _, info = environment.step("click[buy now]")
            outcomes.append((reward, info["score"], info["won"]))
        (graded_reward, score, won), (binary_reward, same_score, same_won) = outcomes
        assert (score, won) == (same_score, same_won) == (graded_reward, full)
        assert binary_reward == float(full)


def test_splits_are_disjoint_and_stable() -> None:
    ids = {}
    for split in ("train", "dev", "test"):
        environment = WebShopEnv(split)
        ids[split] = [environment.task_id(index) for index in range(environment.num_tasks)]
    assert (len(ids["test"]), len(ids["dev"])) == (500, 1000) or sum(map(len, ids.values())) < 3000
    everything = [task for tasks in ids.values() for task in tasks]
    assert len(set(everything)) == len(everything)
    verl = WebShopEnv("test", split_scheme="verl-agent")
    assert [verl.task_id(index) for index in range(100)] == ids["test"][:100]


def test_tasks_are_drawn_by_weight_from_the_seed() -> None:
    environment = WebShopEnv("train", products=40)
    ids = [environment.task_id(index) for index in range(environment.num_tasks)]
    _, first = environment.reset(seed=5)
    drawn = [environment.reset()[1]["task_id"] for _ in range(4000)]
    assert environment.reset(seed=5)[1]["task_id"] == first["task_id"]
    table, place = environment.shop.catalogue.goals["synthetic"], environment._goals
    weights = table.weight[place.start : place.stop]
    for index in (int(weights.argmax()), int(weights.argmin())):
        expected = weights[index] / weights.sum()
        assert drawn.count(ids[index]) / 4000 == pytest.approx(expected, abs=0.02)


def test_official_files_are_indexed_once_and_played(tmp_path: Path) -> None:
    products = write_official(tmp_path / "data")
    environment = WebShopEnv("train", data=products, split_scheme="verl-agent", cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "catalogue.json").stat().st_mtime_ns
    observation, info = environment.reset(options={"task": 0})
    assert "price lower than" in observation or "marble" in observation.lower() or info["task"] in observation
    again = WebShopEnv("test", data=folder, split_scheme="verl-agent")
    assert {again.task_id(i) for i in range(again.num_tasks)}.isdisjoint(
        environment.task_id(i) for i in range(environment.num_tasks)
    )
    assert (folder / "catalogue.json").stat().st_mtime_ns == written
    human = WebShopEnv("train", data=products, human_goals=True, split_scheme="verl-agent", cache=tmp_path / "cache")
    assert human.reset(options={"task": 0})[1]["task"] != info["task"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid_seen"}, "split='valid_seen': one of test, dev, train"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"observation": "html"}, "observation='html': one of text, text_rich"),
        ({"reward": "dense"}, "reward='dense'"),
        ({"nouns": "nltk"}, "nouns='nltk'"),
        ({"products": 0}, "products=0"),
        ({"results_per_page": 99}, "results_per_page=99"),
        ({"human_goals": True}, "human_goals=True: this catalogue has no human goals"),
        ({"split_scheme": "other"}, "split_scheme='other'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WebShopEnv(**arguments)


def test_a_task_that_is_not_there_is_refused() -> None:
    environment = WebShopEnv("test")
    with pytest.raises(IndexError, match=f"test has tasks 0 to {environment.num_tasks - 1}"):
        environment.reset(options={"task": environment.num_tasks})
