"""Fixed episodes as the rows of a verl batch, for the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from empg.engines.verl.episodes import pack
from empg.rollout.types import Episode
from tests.engines.trl.parts import fixed_episode


@dataclass(frozen=True, eq=False)
class Rows:
    """`(B, T)` tensors and one key and packed episode per row."""

    keys: list[str]
    packed: list[str | None]
    written: Tensor
    logprobs: Tensor
    entropies: Tensor

    def reordered(self, order: list[int]) -> Rows:
        """The same rows in another order."""
        picked = torch.tensor(order)
        return Rows(
            [self.keys[row] for row in order],
            [self.packed[row] for row in order],
            self.written[picked],
            self.logprobs[picked],
            self.entropies[picked],
        )


def scored_episodes(count: int = 8) -> list[Episode]:
    """The fixed episodes with log-probabilities and entropies of the policy."""
    generator = torch.Generator().manual_seed(0)
    episodes = [fixed_episode(number) for number in range(count)]
    for episode in episodes:
        for turn in episode.turns:
            size = len(turn.action_ids)
            turn.logprobs = (-3 * torch.rand(size, generator=generator)).tolist()
            turn.entropies = (2 * torch.rand(size, generator=generator)).tolist()
    return episodes


def rows_of(episodes: list[Episode], *, merged: bool) -> Rows:
    """Return the rows that the agent loop makes of episodes, with a row of padding at the end."""
    keys: list[str] = []
    packed: list[str | None] = []
    columns: list[list[tuple[int, float, float]]] = []
    for number, episode in enumerate(episodes):
        unscored = [replace(turn, logprobs=[], entropies=[]) for turn in episode.turns]
        text = pack(replace(episode, turns=unscored, group=0))  # verl has groups of its own
        contexts = [episode.turns] if merged else [[turn] for turn in episode.turns]
        for index, turns in enumerate(contexts):
            row: list[tuple[int, float, float]] = []
            for place, turn in enumerate(turns):
                row += [(0, 9.0, 9.0)] * (len(turn.prompt_ids) if place else 0)
                row += [(1, *pair) for pair in zip(turn.logprobs, turn.entropies, strict=True)]
            keys.append(f"task{episode.group}_{number}_{index}")
            packed.append(text if index == len(contexts) - 1 else None)
            columns.append(row)
    keys.append("pad_0_0")
    packed.append(packed[-1])  # verl copies what it pads with from another row
    columns.append([(0, 0.0, 0.0)])
    width = max(map(len, columns))
    table = torch.tensor([row + [(0, 0.0, 0.0)] * (width - len(row)) for row in columns])
    return Rows(keys, packed, table[..., 0].long(), table[..., 1], table[..., 2])
