"""The environment: its contract, its options, and invariants of random walks."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.agent.parsing import parse_turn, write_turn
from empg.environments.base import SEARCH, Expert, TextEnvironment
from empg.environments.registry import find
from empg.environments.webshop import WebShopEnv
from empg.environments.webshop.world import Page, State
from empg.play import open_environment, play
from empg.policy.tiny import make_tokenizer
from empg.recipe import load_recipe
from empg.rollout.demonstrations import corpus
from tests import ROOT
from tests.environments.commands import admissible
from tests.environments.webshop.shops import RECORDS, record, values, write_official

COMMANDS = st.one_of(
    st.sampled_from(["search[<r>]", "search[red]", "search[<c> beauty]", "click[buy now]", "nonsense", "search[ ]"]),
    st.integers(0, 50),  # index of an admissible command
    st.text(max_size=12),
    st.text(max_size=8).map(lambda text: f"click[{text}]"),
    st.text(max_size=8).map(lambda text: f"search[{text}]"),
)


def command(choice: int | str, listed: list[str]) -> str:
    if isinstance(choice, str):
        return choice
    return listed[choice % len(listed)] if listed else "click[a]"


@settings(max_examples=150)
@given(
    task=st.integers(0, 10_000), choices=st.lists(COMMANDS, max_size=25), mode=st.sampled_from(["text", "text_rich"])
)
def test_invariants_of_random_walks(task: int, choices: list[int | str], mode: str) -> None:
    environment = WebShopEnv("train", products=120, observation=mode)
    _, info = environment.reset(options={"task": task % environment.num_tasks})
    for number, choice in enumerate(choices, start=1):
        action = command(choice, admissible(info))
        listed = action in admissible(info)
        twin = environment.clone()
        outcome = environment.step(action)
        observation, reward, terminated, truncated, info = outcome
        assert twin.step(action) == outcome  # a clone behaves the same
        assert 0 <= reward <= 1
        assert 0 <= info["progress"] <= 1
        assert info["valid"] or not listed
        assert info["won"] == (reward == 1.0)
        assert terminated == (environment.state.page is Page.DONE)
        assert truncated == (number == environment.max_steps and not terminated)
        assert terminated or (reward, info["score"]) == (0.0, 0.0)
        if mode == "text" and not terminated:
            assert info["task"] in observation
        if terminated or truncated:
            break


def test_every_admissible_command_has_an_effect() -> None:
    environment = WebShopEnv("train", products=120)
    rng = random.Random(0)
    for task in range(30):
        _, info = environment.reset(options={"task": task})
        for _ in range(6):
            for action in admissible(info):
                assert environment.clone().step(action)[4]["valid"], action
            action = rng.choice([a for a in admissible(info) if a != "click[buy now]"])
            action = "search[red]" if action.startswith("search") else action
            _, _, _, _, info = environment.step(action)


def mugs(tmp_path: Path, *styles: str, **arguments: Any) -> WebShopEnv:
    """Create a shop with one mug in these styles and one goal per style."""
    mug = record("B0000SPACE", "Mug", customization_options={"Style": values(*styles)})
    extra = {"attributes": ["x"], "instruction": "Find me a mug", "instruction_attributes": ["mug"]}
    products = write_official(tmp_path, [mug])
    products.with_name("items_ins_v2_1000.json").write_text(json.dumps({"B0000SPACE": extra}))
    return WebShopEnv(data=products, split_scheme="verl-agent", **arguments)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_expert_wins_if_the_parser_squeezes_white_space(tmp_path: Path, split: str) -> None:
    environment = mugs(tmp_path, "White / Grey", "plain", split=split)
    for task in range(environment.num_tasks):
        observation, info = environment.reset(options={"task": task})
        expert, over = environment.expert(), False
        while not over:
            decision = expert.act(observation, info)
            action = parse_turn(write_turn(decision["thought"], decision["action"])).action
            assert admissible(info) == ["search[<your query>]"] or action.lower() in admissible(info)
            observation, _, over, _, info = environment.step(action)
            if environment.state.page is Page.ITEM:
                assert "[SEP] white  |  grey [SEP] plain [SEP]" in observation  # as in the original
        assert info["won"]


def test_a_value_is_clickable_whatever_its_white_space(tmp_path: Path) -> None:
    environment = mugs(tmp_path, "a / b", "a | b", "one\u00a0size", "two\nlines")
    for action, chosen in (
        ("click[a | b]", "a | b"),  # an exact match takes precedence
        ("click[a  |  b]", "a  |  b"),
        ("click[A  |\u00a0b]", "a | b"),
        ("click[one size]", "one\u00a0size"),
        ("click[two lines]", "two\nlines"),
    ):
        environment.reset(options={"task": 0})
        environment.step("search[mug]")
        info = environment.step("click[b0000space]")[4]
        assert admissible(info)[-3:] == ["click[a | b]", "click[one size]", "click[two lines]"]
        assert environment.step(action)[4]["valid"]
        assert environment.state.options == {"style": chosen}


def test_unreachable_values_are_not_admissible(tmp_path: Path) -> None:
    odd = record("B1", "Mug", customization_options={"A": values("plain [2 pack]", "search", "", "x" * 2_000, "red")})
    data = write_official(tmp_path, [odd, *RECORDS])
    for reach, more in ((False, []), (True, ["click[plain [2 pack]]", "click[search]"])):
        environment = WebShopEnv(data=data, split_scheme="verl-agent", reach_bracketed_values=reach)
        environment.reset(options={"task": 0})
        environment.step("search[mug]")
        _, _, _, _, info = environment.step("click[b1]")
        buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
        assert info["admissible"] == [*(f"click[{name}]" for name in buttons), *more, "click[red]"]
        for action in info["admissible"]:
            assert environment.clone().step(action)[4]["valid"]
        for action in ("click[plain [2 pack]]", "click[search]"):
            assert environment.clone().step(action)[4]["valid"] == (action in more)
        environment.reset(options={"task": 0})
        assert not environment.step("click[search]")[4]["valid"]  # the search bar is not an option


def test_the_placeholder_of_a_search_is_a_search_as_in_the_original() -> None:
    environment = WebShopEnv("train")
    environment.reset(options={"task": 0})
    observation, _, _, _, info = environment.step(SEARCH)
    assert info["valid"]
    assert "(Total results: " in observation


def test_parsing_is_fast_for_commands_of_any_length() -> None:
    environment = WebShopEnv(products=50)
    environment.reset(options={"task": 0})
    began = time.perf_counter()
    for text in ("[" * 1_000_000, "click[" * 300_000, "search[" + "a" * 1_000_000 + "]"):
        assert not environment.clone().step(text)[4]["valid"]
    assert time.perf_counter() - began < 1


def test_observations_and_commands_are_in_their_spaces() -> None:
    for world in ("ALFWorld", "WebShop", "DeepSearch"):
        environment = gymnasium.make(f"empg/{world}-v1", split="train").unwrapped
        assert isinstance(environment, TextEnvironment)
        observation, info = environment.reset(options={"task": 0})
        expert = environment.expert()
        for _ in range(5):
            assert observation in environment.observation_space
            action = expert.act(observation, info)["action"]
            assert action in environment.action_space
            observation, _, terminated, _, info = environment.step(action)
            if terminated:
                break
        assert "" in environment.observation_space
        assert 5 not in environment.observation_space
        assert "x" * 20_000_000 not in environment.observation_space
        environment.close()


def test_the_task_id_changes_with_the_shop_and_its_rules() -> None:
    usual = WebShopEnv("dev")
    ids = [
        WebShopEnv("dev", **rules).task_id(0)
        for rules in ({}, {"results_per_page": 3}, {"show_chosen_options": True}, {"stop_at_last_page": True},
                      {"reach_bracketed_values": True}, {"products": 1_100})
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert ids[0] == usual.task_id(0) == usual.reset(options={"task": 0})[1]["task_id"]
    assert ids[0].startswith(f"{usual.goal_id(0)}-")
    assert WebShopEnv("dev", max_steps=5, reward="binary", observation="text_rich").task_id(0) == ids[0]


def test_the_contract() -> None:
    environment = WebShopEnv("dev", max_steps=3)
    assert isinstance(environment, TextEnvironment)
    observation, info = environment.reset(options={"task": 7})
    assert set(info) == {"task", "task_id", "task_type", "won", "score", "admissible", "valid", "progress"}
    assert info["task_id"] == environment.task_id(7)
    assert info["admissible"] == ["search[<your query>]"]
    assert info["task"] in observation
    assert isinstance(environment.expert(), Expert)
    for _ in range(2):
        assert environment.step("nonsense")[3] is False
    assert environment.step("nonsense")[2:4] == (False, True)
    with pytest.raises(RuntimeError, match="the episode has ended after 3 steps; call reset"):
        environment.step("nonsense")
    environment.reset(options={"task": 7})
    assert environment.state == State()


def test_buying_ends_the_episode() -> None:
    environment = WebShopEnv("train")
    environment.reset(options={"task": 0})
    environment.step("search[<r>]")
    environment.step(admissible(environment._observe(True, None)[1])[-1])
    _, reward, terminated, truncated, info = environment.step("click[Buy Now]")
    assert (terminated, truncated, info["admissible"]) == (True, False, [])
    assert reward == info["score"] < 1
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("search[more]")


def test_progress_is_what_buying_now_would_be_worth() -> None:
    environment = WebShopEnv("train")
    for task in range(5):
        observation, info = environment.reset(options={"task": task})
        assert info["progress"] == 0.0
        expert, over = environment.expert(), False
        while not over:
            buyer = environment.clone()
            worth = buyer.step("click[buy now]")[4]["score"] if environment.state.page is Page.ITEM else 0.0
            assert environment.state.page is Page.SUB or info["progress"] == worth
            observation, _, over, _, info = environment.step(expert.act(observation, info)["action"])
        assert info["progress"] == info["score"] == 1.0


def test_a_clone_is_independent() -> None:
    environment = WebShopEnv("train")
    environment.reset(options={"task": 0})
    environment.step("search[red]")
    twin = environment.clone()
    twin.step("search[blue]")
    twin.state.options["x"] = "y"
    twin.state.visited.add("z")
    assert environment.state == State(Page.RESULTS, ("red",), draw=1, steps=1)
    assert twin.shop is environment.shop


def test_the_binary_reward_is_1_only_for_a_full_score() -> None:
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
                environment.step(admissible(info)[-1])
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


RECIPE = load_recipe(ROOT / "recipes" / "webshop.yaml")


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_an_agent_plays_the_shop_of_the_recipe(history: str) -> None:
    environment = RECIPE.environment.make("dev")
    texts = corpus(environment, find("webshop").prompt, "react", 10, (0,))
    tokenizer = make_tokenizer(texts, 1024, 64)
    chat = ChatFormat(tokenizer)
    agent = Agent(
        find("webshop").prompt, RECIPE.agent.model_copy(update={"history": history, "prompt": "instruct"}), chat
    )
    observation, info = environment.reset(options={"task": 0})
    dialogue, expert = agent.dialogue(), environment.expert()
    over, first = False, True
    while not over:
        prompt = str(tokenizer.decode(dialogue.read(observation, info).ids))
        assert ("shop in an online store" in prompt) == (first or history == "per_turn")
        assert "Task:" not in prompt  # every page contains it
        assert " ".join(observation.lower().split()) in " ".join(prompt.split())
        decision = expert.act(observation, info)
        ids = agent.write(decision["thought"], decision["action"])
        parsed = agent.parse(ids)
        assert (parsed.action, parsed.well_formed) == (decision["action"].lower(), True)
        dialogue.wrote(ids, parsed.action)
        observation, reward, over, _, info = environment.step(parsed.action)
        first = False
    assert reward == 1.0
    assert info["won"]


def test_the_shop_can_be_played_in_the_terminal() -> None:
    options = [f"{name}={json.dumps(value)}" for name, value in RECIPE.environment.options.items()]
    environment = open_environment("webshop", "dev", options)
    environment.reset(options={"task": 0})
    lines = iter(["?", "search[red]", "?", "click[Next >]", "click[Back to Search]"])

    def ask(prompt: str, commands: Sequence[str]) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    out = io.StringIO()
    assert not play(environment, 0, ask=ask, out=out)
    text = out.getvalue()
    assert "  search[<your query>]\n" in text
    assert "Page 1 (Total results: " in text
    assert "  click[next >]\n" in text
    assert "Page 2 (Total results: " in text
    assert text.endswith("quit after 3 steps\n")
    out = io.StringIO()
    assert play(environment, 0, expert=True, out=out)
    assert "Thank you for shopping with us!" in out.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid_seen"}, "split: expected one of test, dev, train, got 'valid_seen'"),
        ({"max_steps": 0}, "max_steps: expected a whole number from 1"),
        ({"observation": "html"}, "observation: expected 'text' or 'text_rich'"),
        ({"reward": "dense"}, "reward: expected 'score' or 'binary'"),
        ({"nouns": "nltk"}, "nouns: expected 'lexicon', 'spacy' or 'auto'"),
        ({"products": 0}, "products: expected at least 1"),
        ({"results_per_page": 99}, "results_per_page: expected at most 50"),
        ({"reward": "score", "result_per_page": 3}, "unknown key 'result_per_page'; did you mean 'results_per_page'"),
        ({"products": "5"}, "products: expected an integer"),
        ({"human_goals": True}, "human_goals=True: this catalogue has no human goals"),
        ({"split_scheme": "other"}, "split_scheme: expected 'paper' or 'verl-agent'"),
    ],
)
def test_the_error_for_an_invalid_argument_names_it(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WebShopEnv(**arguments)


def test_a_wrong_argument_is_an_error_before_the_catalogue_is_indexed(tmp_path: Path) -> None:
    data = write_official(tmp_path)
    for wrong in ({"split": "valid"}, {"max_steps": -1}, {"split": "dev", "split_scheme": "verl-agent"}):
        with pytest.raises(ValueError, match=r"^(split|max_steps): expected"):
            WebShopEnv(data=data, **wrong)
    assert not list(tmp_path.glob("empg-index*"))


def test_official_files_are_those_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue is shared in a process until its files are rewritten or the working folder changes."""
    files = Path("items_shuffle_1000.json")
    shops = []
    for folder, name in (("a", "Lamp"), ("a", "Lamp"), ("a", "Red Lamp"), ("b", "Lamp of b")):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        if not files.exists() or name not in files.read_text():
            write_official(Path(), [record("B000TABLE1", name)])
        shops.append(WebShopEnv(data=files, split_scheme="verl-agent", nouns="lexicon").shop)
    assert [shop.catalogue.product(0).title for shop in shops] == ["Lamp", "Lamp", "Red Lamp", "Lamp of b"]
    assert shops[0] is shops[1]


def test_an_unknown_task_is_rejected() -> None:
    environment = WebShopEnv("test")
    with pytest.raises(IndexError, match=f"test has tasks 0 to {environment.num_tasks - 1}"):
        environment.reset(options={"task": environment.num_tasks})
