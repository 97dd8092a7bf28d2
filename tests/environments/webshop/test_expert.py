"""The expert buys the right product, gives its reason in one line, and recovers from random actions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from empg.environments.base import EarlyStoppingExpert
from empg.environments.webshop import WebShopEnv
from tests.environments.webshop.shops import expert_actions, record, write_official

UNREACHABLE = ("plain [4 pack]", "search", "features", "back to search", "buy now")


def play(environment: WebShopEnv, task: int, noise: float = 0.0) -> tuple[float, list[str]]:
    rng = random.Random(f"{task}")
    observation, info = environment.reset(options={"task": task})
    expert, thoughts = environment.expert(), []
    while True:
        decision = expert.act(observation, info)
        thoughts.append(decision["thought"])
        action = decision["action"]
        if info["admissible"] and rng.random() < noise:
            action = rng.choice([command for command in info["admissible"] if command != "click[buy now]"])
        else:
            assert environment.clone().step(action)[4]["valid"], action
        observation, reward, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return reward, thoughts


@pytest.mark.parametrize(("split", "per_page"), [("train", 10), ("dev", 10), ("test", 3)])
def test_the_expert_wins_99_percent_of_tasks(split: str, per_page: int) -> None:
    environment = WebShopEnv(split, results_per_page=per_page)
    rewards = [play(environment, task)[0] for task in range(400)]
    assert sum(reward == 1.0 for reward in rewards) >= 396


def test_the_expert_also_wins_in_a_larger_shop() -> None:
    environment = WebShopEnv("test", products=4000, seed=9)
    assert sum(play(environment, task)[0] == 1.0 for task in range(200)) >= 198


def test_the_expert_recovers_from_random_actions() -> None:
    environment = WebShopEnv("train", max_steps=30, results_per_page=4)
    assert sum(play(environment, task, noise=0.15)[0] == 1.0 for task in range(200)) >= 190


def test_thoughts_are_short_and_name_chosen_or_missing_values() -> None:
    environment = WebShopEnv("train")
    chosen, missing = 0, set()
    for task in range(100):
        _, thoughts = play(environment, task)
        goal = environment.goal
        assert all(len(thought.split()) <= 20 for thought in thoughts)
        missing |= {name for thought in thoughts for name in goal.attributes if f"Has it {name}? Read" in thought}
        if goal.options:
            assert thoughts[-1] == f"Chosen: {', '.join(environment.state.options.values())}. Buy."
            chosen += 1
    assert chosen > 80
    assert len(missing) > 5


def test_the_expert_plays_human_goals(tmp_path: Path) -> None:
    environment = WebShopEnv("train", data=write_official(tmp_path), human_goals=True, split_scheme="verl-agent")
    reward, _ = play(environment, 0)
    assert 0 <= reward <= 1


@pytest.mark.parametrize(
    ("lamps", "opened"),
    [
        # Only the features name the attribute. The first result has its words only.
        (
            [{"small_description": ["easy to carry"]}, {"small_description": ["easy carry"]}],
            ["b000000000", "b000000001"],
        ),
        # The upper end of the range is above the bound, which is at most 40 dollars above the price of the reward.
        ([{"name": "Easy Carry Lamp", "pricing": "$5.00$500.00"}], ["b000000000"]),
    ],
)
def test_the_expert_buys_official_products_that_their_results_do_not_tell(
    tmp_path: Path, lamps: list[dict[str, Any]], opened: list[str]
) -> None:
    shop = [record(**{"asin": f"B00000000{n}", "name": "Lamp", "query": "lamps", **own}) for n, own in enumerate(lamps)]
    products = write_official(tmp_path, shop)
    extras: dict[str, Any] = {lamp["asin"]: {"attributes": ["red"]} for lamp in shop}
    extras[shop[-1]["asin"]] |= {"instruction": "Find me lamps", "instruction_attributes": ["easy carry"]}
    products.with_name("items_ins_v2_1000.json").write_text(json.dumps(extras))
    actions = expert_actions(WebShopEnv(data=products, split_scheme="verl-agent", nouns="lexicon"), 0)
    assert [action.lower() for action in actions if "[b0" in action.lower()] == [f"click[{asin}]" for asin in opened]


def test_the_expert_takes_a_value_that_cannot_be_clicked_as_absent(tmp_path: Path) -> None:
    """As in the original, brackets cannot be clicked, and a value with the name of a button is the button."""
    shop, extras = [], {}
    for number, value in enumerate(UNREACHABLE):
        options = {"Size": [{"value": value}, {"value": "small"}]}
        shop.append(record(f"B00000000{number}", "Green Tea", query="tea", customization_options=options))
        extras[f"B00000000{number}"] = {"attributes": ["tea"], "instruction": "tea", "instruction_attributes": ["tea"]}
    data = write_official(tmp_path, shop)
    (tmp_path / "items_ins_v2_1000.json").write_text(json.dumps(extras))
    absent = set()
    for split in ("train", "test"):
        environment = WebShopEnv(split, data=data, split_scheme="verl-agent", nouns="lexicon")
        for task in range(environment.num_tasks):
            reward, thoughts = play(environment, task)  # asserts that every action is valid
            [(_, wanted)] = environment.goal.options
            assert reward == float(wanted == "small")
            if any(f"I want {wanted} and cannot choose it" in thought for thought in thoughts):
                absent.add(wanted)
    assert absent == {*UNREACHABLE}


def test_conclude_buys_the_current_product_with_the_chosen_options() -> None:
    environment = WebShopEnv("train")
    concluded = 0
    for task in range(40):
        observation, info = environment.reset(options={"task": task})
        expert = environment.expert()
        assert isinstance(expert, EarlyStoppingExpert)
        while True:
            action = expert.act(observation, info)["action"]
            early = expert.conclude(observation, info)
            assert (early is not None) == ("click[buy now]" in (info["admissible"] or []))
            if early is not None:
                chosen = ", ".join(environment.state.options.values()) or "nothing"
                assert early == {"thought": f"Chosen: {chosen}. Buy.", "action": "click[Buy Now]"}
                assert environment.clone().step(early["action"])[2]
                concluded += early["action"] != action
            observation, _, terminated, _, info = environment.step(action)
            if terminated:
                break
    assert concluded > 40
