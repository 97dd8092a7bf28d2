"""WebShop as a `gymnasium` environment: a generated shop, or the official catalogue; no Java, no server."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from empg.environments.base import SEARCH, AnyText, Expert, Info, RecordedEpisode, SetByReset, TextEnvironment
from empg.environments.options import check_max_steps, check_task, read_options
from empg.environments.webshop import pages, recording
from empg.environments.webshop.catalogue import Catalogue
from empg.environments.webshop.expert import ShoppingExpert
from empg.environments.webshop.goals import GoalKind, check_split, split_range
from empg.environments.webshop.indexing import official_fingerprint, open_generated, open_official
from empg.environments.webshop.nouns import NounRule, noun_finder
from empg.environments.webshop.reward import Score
from empg.environments.webshop.shop import Shop, ShopRules
from empg.environments.webshop.spec import WebShopOptions
from empg.environments.webshop.world import Goal, Page, State
from empg.errors import MissingExtraError, UserError

PRODUCTS = 1_000  # of the generated shop


class WebShopEnv(TextEnvironment):
    """Shopping from an instruction, on the pages and with the reward of WebShop. Reward comes at `Buy Now` only.

    Every environment of a process that is made with the same catalogue shares it.

    Args:
        split: "train", "dev" or "test" ("train" or "test" with the verl-agent scheme).
        max_steps: turns until the episode is truncated.
        options: see `spec.WebShopOptions`.

    Raises:
        UserError: an argument is wrong, or there are no such goals; the message names it.
        MissingFileError: an official file is missing; the message says which.
    """

    goal = SetByReset[Goal]()

    def __init__(self, split: str = "train", max_steps: int = 15, **options: Any) -> None:
        chosen = read_options(WebShopOptions, options)
        self.split, self.max_steps = split, check_max_steps(max_steps)
        check_split(chosen.split_scheme, split)  # before a catalogue is indexed, which may take long
        rules = ShopRules(
            chosen.results_per_page,
            chosen.show_chosen_options,
            chosen.stop_at_last_page,
            chosen.reach_bracketed_values,
        )
        self.shop = _shop(_catalogue(chosen), chosen.nouns, rules)
        self._observation, self._reward = chosen.observation, chosen.reward
        self.goal_kind: GoalKind = "human" if chosen.human_goals else "synthetic"
        goals = len(self.shop.catalogue.goals[self.goal_kind])
        if not goals:
            raise UserError(f"human_goals={chosen.human_goals}: this catalogue has no {self.goal_kind} goals")
        self._goals = split_range(chosen.split_scheme, split, goals)
        self.observation_space = AnyText(1_000_000)
        self.action_space = AnyText(1_000)
        self.state = State()

    @property
    def num_tasks(self) -> int:
        """The number of goals in this split."""
        return len(self._goals)

    def task_id(self, index: int) -> str:
        """Return the goal's id, and a fingerprint of the shop: of its catalogue, its rules and how it finds nouns."""
        return self._id(self._goal(index))

    def goal_id(self, index: int) -> str:
        """Return the asin of the product that the goal was made from, and a fingerprint of the goal; in any shop."""
        return self._goal(index).task_id

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:  # type: ignore[override]
        """Start a task. Without `options["task"]` one is drawn by weight: rare attributes more often."""
        gymnasium.Env.reset(self, seed=seed)
        index = (options or {}).get("task")
        if index is None:
            weights = _cumulative_weights(self.shop.catalogue, self.goal_kind, self._goals)
            index = int(np.searchsorted(weights, self.np_random.uniform(0, weights[-1]), side="right"))
            index = min(index, self.num_tasks - 1)
        self.goal = self._goal(index)
        self.state = State()
        return self._observe(True, None)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """Act.

        Raises:
            RuntimeError: the episode has ended.
        """
        if self._bought or self.state.steps >= self.max_steps:
            how = "with the purchase" if self._bought else f"after {self.max_steps} steps"
            raise RuntimeError(f"the episode has ended {how}; call reset")
        valid = self.shop.step(self.state, self.goal, action)
        bought = self._bought
        score = self.shop.score(self.state, self.goal) if bought else None
        observation, info = self._observe(valid, score)
        reward = float(info["won"]) if self._reward == "binary" else info["score"]
        return observation, reward, bought, self.state.steps >= self.max_steps and not bought, info

    def clone(self) -> WebShopEnv:
        """Return an independent environment in the same state; the shop is shared."""
        twin = object.__new__(WebShopEnv)
        twin.__dict__.update(self.__dict__)
        twin._np_random = copy.deepcopy(self._np_random)
        twin.state = self.state.clone()
        return twin

    def expert(self) -> Expert:
        """Return a fresh expert for the episode that was just reset."""
        return ShoppingExpert(self.shop, self.goal, self.state)

    def with_reachable_values(self) -> WebShopEnv:
        """Return an environment like this one, not reset, where everything that is shown can be clicked."""
        twin = self.clone()
        rules = replace(self.shop.rules, reach_bracketed_values=True)
        twin.shop = Shop(self.shop.catalogue, self.shop.find_nouns, rules)
        return twin

    def recordings(self, file: Path) -> Iterator[RecordedEpisode]:
        """Yield the episodes of a file of recordings, which must have been made in this shop: see `recording.py`.

        Raises:
            UserError: one was not; the message names the file and the line.
        """
        return recording.fitting(file, self)

    def serve(self, port: int, record: Path | None, ready: Callable[[str], None]) -> None:
        """Serve this shop as a web site on this machine until Ctrl-C; see `base.PlayableInBrowser`."""
        try:
            from empg.environments.webshop.site import serve
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"{error.name} is not installed: pip install 'empg[server]'") from None
        serve(self, port, record, ready)

    @property
    def _bought(self) -> bool:
        return self.state.page is Page.DONE

    def _goal(self, task: Any) -> Goal:
        return self.shop.goal(self.goal_kind, self._goals[check_task(task, self.num_tasks, self.split)])

    def _id(self, goal: Goal) -> str:
        return f"{goal.task_id}-{self.shop.identity}"

    def _observe(self, valid: bool, score: Score | None) -> tuple[str, Info]:
        nodes = self.shop.nodes(self.state, self.goal)
        if self._observation == "text":
            chosen = self.state.options if self.shop.rules.show_chosen_options else None
            text = pages.as_text(nodes, chosen)
        else:
            text = pages.as_rich_text(nodes, self.state)
        info = Info(
            task=self.goal.instruction,
            task_id=self._id(self.goal),
            task_type=self.goal.category,
            won=score is not None and score.reward == 1.0,
            score=score.reward if score is not None else 0.0,
            admissible=self._admissible(nodes),
            valid=valid,
            progress=score.reward if score is not None else self._worth_now(),
        )
        return text, info

    def _worth_now(self) -> float:
        """Return the score of buying the open product with the options chosen so far; 0 where none is open."""
        return self.shop.score(self.state, self.goal).reward if self.state.row is not None else 0.0

    def _admissible(self, nodes: list[pages.Node]) -> list[str]:
        """Return the commands that do something now. A search works anywhere, but counts only with a search bar."""
        return [SEARCH] if self.state.page is Page.INDEX else self.shop.clicks(nodes)


def _catalogue(chosen: WebShopOptions) -> Catalogue:
    """Return the catalogue, shared by all environments of a process until its files or the working folder change."""
    cache = None if chosen.cache is None else chosen.cache.absolute()
    if chosen.data is None:
        return _generated_catalogue(chosen.products or PRODUCTS, chosen.seed, cache)
    people = chosen.human_goals
    fingerprint = official_fingerprint(chosen.data, chosen.products, people=people)
    return _official_catalogue(chosen.data.absolute(), chosen.products, cache, people, fingerprint)


@lru_cache(4)
def _generated_catalogue(products: int, seed: int, cache: Path | None) -> Catalogue:
    return open_generated(products, seed, cache)


@lru_cache(4)
def _official_catalogue(data: Path, limit: int | None, cache: Path | None, people: bool, fingerprint: str) -> Catalogue:
    return open_official(data, limit, cache, people=people)


@lru_cache(8)
def _shop(catalogue: Catalogue, nouns: NounRule, rules: ShopRules) -> Shop:
    return Shop(catalogue, noun_finder(nouns, generated=catalogue.generated), rules)


@lru_cache(8)
def _cumulative_weights(catalogue: Catalogue, kind: GoalKind, goals: range) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.cumsum(catalogue.goals[kind].weight[goals.start : goals.stop])
