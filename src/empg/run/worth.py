"""The worth of recorded actions: their advantage, estimated from the other episodes of the group.

The worth of an action is Q(s, a) - V(s) under the policy that chose it. The other episodes of the group tell it, where
some of them read and did the same before the step:

    V(i,t)  success rate of the other episodes of the group that read and did the same up to the observation of the step
    Q(i,t)  success rate of those among them that also took the action of the step
    w(i,t)  = Q(i,t) - V(i,t)             known if another episode took the action, and another one did not

The outcome of the episode itself is not used, so credit from that outcome cannot agree with w by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from empg.credit import ModulationInputs, StepTable
from empg.learner.assign import length_share
from empg.record.fields import finite
from empg.record.loading import finished_before
from empg.rollout.types import EndReason


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedSteps:
    """The N steps of one iteration that were trained on, as a rule sees them, and what their actions were worth.

    Attributes:
        seen: entropies, base advantages, process rewards, episodes and groups.
        worth: (N,) w, 0 where it is unknown.
        known: (N,) bool.
        won: (N,) bool, whether the episode of the step was won.
    """

    seen: ModulationInputs
    worth: np.ndarray
    known: np.ndarray
    won: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """(N,) c."""
        return np.asarray(-np.expm1(-self.seen.steps.entropy.double().numpy()))

    @property
    def group(self) -> np.ndarray:
        """(N,) the group of each step, numbered from 0."""
        found = self.seen.groups[self.seen.steps.episode].numpy()
        return np.asarray(np.unique(found, return_inverse=True)[1])


def recorded_steps(steps: pa.Table, recipe: Mapping[str, Any] | None = None) -> RecordedSteps | None:
    """Return the steps of one iteration that were trained on; None if there are none.

    Args:
        steps: the table of an iteration (`LoadedRun.steps_of`), in time order.
        recipe: the resolved recipe of the run: for rules that read rewards or the share of the run that is finished.
    """
    columns = {name: steps[name].to_pylist() for name in _COLUMNS}
    entropy = np.array([np.nan if h is None else h for h in columns["entropy"]], dtype=float)
    counted = np.array([a is not None for a in columns["advantage"]], dtype=bool) & np.isfinite(entropy)
    if not counted.any():
        return None
    worth, known = _worth(columns)
    first, episode = np.unique(np.array(columns["episode"]), return_index=True, return_inverse=True)[1:]

    def column(name: str) -> Tensor:
        return torch.tensor([v or 0.0 for v, c in zip(columns[name], counted, strict=True) if c])

    of_actions = None
    if all(v is not None for v, c in zip(columns["action_entropy"], counted, strict=True) if c):
        of_actions = column("action_entropy")
    table = StepTable(
        entropy=column("entropy"),
        episode=torch.from_numpy(episode[counted]),
        advantage=column("advantage_outcome"),
        process_reward=column("process_reward"),
        action_entropy=of_actions,
    )
    seen = ModulationInputs(
        steps=table,
        rewards=torch.from_numpy(_rewards(columns, episode, recipe or {})).float(),
        groups=torch.from_numpy(np.array(columns["group"], dtype=np.int64)[first]),
        finished=finished_before(columns["iteration"][0], recipe or {}),
    )
    won = np.array(columns["success"], dtype=bool)
    return RecordedSteps(seen=seen, worth=worth[counted], known=known[counted], won=won[counted])


def _rewards(columns: Mapping[str, Sequence[Any]], episode: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    """Return the reward of each episode as it was trained on: that of the environment minus the penalty for length."""
    rewards = np.bincount(episode, weights=[r or 0.0 for r in columns["reward"]])
    found = (recipe.get(name) for name in ("credit", "rollout", "agent"))
    credit, rollout, agent = (section if isinstance(section, dict) else {} for section in found)
    penalty, ramp = (finite(credit.get(name)) or 0.0 for name in ("overlong_penalty", "overlong_ramp"))
    if penalty:
        read, wrote = columns["num_prompt_tokens"], columns["num_action_tokens"]
        lengths: list[list[int]] = [[] for _ in rewards]
        for place, tokens in zip(episode, zip(read, wrote, strict=True), strict=True):
            lengths[place].append(sum(count or 0 for count in tokens))
        ends = dict(zip(episode.tolist(), columns["end"], strict=True))
        limit, merged = int(finite(rollout.get("max_episode_tokens")) or 0), agent.get("history") == "merged"
        for place, turns in enumerate(lengths):
            rewards[place] -= penalty * length_share(turns, EndReason(ends[place]), limit, ramp, merged=merged)
    return rewards


_COLUMNS = (
    "iteration", "episode", "group", "observation", "action", "text", "reward", "success", "end", "entropy",
    "action_entropy", "advantage_outcome", "process_reward", "advantage", "num_prompt_tokens", "num_action_tokens",
)  # fmt: skip


def _worth(columns: Mapping[str, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return w of all steps, 0 where it is unknown, and where it is known."""
    # A state follows a group or a choice, and a choice follows a state; the word tells which number it is.
    numbers: dict[tuple[str, int, Any], int] = {}
    states, choices = [], []
    last: Any = None
    before = ("group", 0)
    rows = zip(*(columns[name] for name in ("episode", "group", "observation", "action", "text")), strict=True)
    for episode, group, observation, action, text in rows:
        if episode != last:
            last, before = episode, ("group", group)
        state = numbers.setdefault((*before, observation), len(numbers))
        choice = numbers.setdefault(("state", state, action if action is not None else text), len(numbers))
        states.append(state)
        choices.append(choice)
        before = ("choice", choice)
    won = np.array(columns["success"], dtype=bool).astype(float)  # null is not won
    here, alike = np.array(states), np.array(choices)
    others, same = (np.bincount(ids)[ids] - 1 for ids in (here, alike))
    won_others, won_same = (np.bincount(ids, weights=won)[ids] - won for ids in (here, alike))
    known = (same > 0) & (others > same)
    safe = np.where(known, same, 1), np.where(known, others, 1)
    return np.where(known, won_same / safe[0] - won_others / safe[1], 0.0), known
