"""Episodes as token rows: the ids that the model reads, the ones that the policy wrote, and the step of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empg.rollout.types import Episode

MEMORY_KEYS = "optimizer.micro_batch_tokens", "optimizer.gradient_checkpointing", "policy.lora"
"""Keys of a recipe that decide how much memory the passes over a batch take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Rows of ids and the flat list of the M tokens that the policy wrote in them.

    A row is one sequence for the model: a whole episode (`merged`) or one turn with its prompt (`per_turn`). Steps and
    episodes are numbered in the order in which the episodes were given.

    Attributes:
        rows: the ids of each row.
        row: (M,) int64, the row of each token.
        column: (M,) int64, its position in the row.
        step: (M,) int64, its step among all steps of the batch.
        episode: (M,) int64, its episode.
        logprobs: (M,) float32, as sampled.
    """

    rows: list[list[int]]
    row: Tensor
    column: Tensor
    step: Tensor
    episode: Tensor
    logprobs: Tensor

    def __len__(self) -> int:
        return len(self.row)


def make_batch(episodes: Sequence[Episode], history: str) -> TokenBatch:
    """Lay out episodes as `merged` or `per_turn` rows. Observation and prompt ids belong to no step."""
    rows: list[list[int]] = []
    spans: list[tuple[int, int, int]] = []  # row, column of the first token, number of tokens
    for episode in episodes:
        for index, turn in enumerate(episode.turns):
            if history == "per_turn" or index == 0:
                rows.append([])
            row = rows[-1]
            row += turn.prompt_ids
            spans.append((len(rows) - 1, len(row), len(turn.action_ids)))
            row += turn.action_ids
    row_of, first, lengths = np.array(spans, dtype=np.int64).reshape(-1, 3).T
    turns = np.array([len(episode.turns) for episode in episodes], dtype=np.int64)
    episode_of = np.repeat(np.arange(len(turns)), turns)
    total = int(lengths.sum())
    # A token's column is its place in the flat list, moved by as much as the first token of its turn is.
    column = np.arange(total) + np.repeat(first - (lengths.cumsum() - lengths), lengths)
    logprobs = itertools.chain.from_iterable(turn.logprobs for episode in episodes for turn in episode.turns)
    return TokenBatch(
        rows=rows,
        row=torch.from_numpy(np.repeat(row_of, lengths)),
        column=torch.from_numpy(column),
        step=torch.from_numpy(np.repeat(np.arange(len(spans)), lengths)),
        episode=torch.from_numpy(np.repeat(episode_of, lengths)),
        logprobs=torch.from_numpy(np.fromiter(logprobs, dtype=np.float32, count=total)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward pass and the m tokens that are scored in it.

    Attributes:
        input_ids: (B, T) int64, padded with 0.
        rows: (m,) int64, the row of each scored token in `input_ids`.
        columns: (m,) int64, its column there.
        tokens: (m,) int64, its index in the flat list of the batch.
    """

    input_ids: Tensor
    rows: Tensor
    columns: Tensor
    tokens: Tensor


def micro_batches(batch: TokenBatch, keep: Tensor, budget: int, device: torch.device) -> Iterator[MicroBatch]:
    """Cut a batch into forward passes of at most `budget` ids, padding included; rows of similar length go together.

    Args:
        batch: the rows.
        keep: (M,) bool, the tokens to score; rows without such a token are skipped.
        budget: ids per pass; a longer row gets a pass of its own.
        device: where the ids go.
    """
    wanted = torch.nonzero(keep)[:, 0]
    row_of = batch.row[wanted]
    lengths = np.array([len(row) for row in batch.rows])
    used = torch.unique(row_of).numpy()
    order = used[np.argsort(-lengths[used], kind="stable")]
    position = np.full(len(lengths), -1)
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        if device.type == "cuda":  # other lengths would be compiled once more (`optimizer.compile`)
            width += -width % 8
        chosen = order[start : start + max(1, budget // width)]
        start += len(chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        for place, row in enumerate(chosen):
            ids[place, : lengths[row]] = torch.tensor(batch.rows[row])
        position[:] = -1
        position[chosen] = np.arange(len(chosen))
        place_of = torch.from_numpy(position)[row_of]
        inside = place_of >= 0
        tokens = wanted[inside]
        yield MicroBatch(
            input_ids=ids.to(device),
            rows=place_of[inside].to(device),
            columns=batch.column[tokens].to(device),
            tokens=tokens,
        )
