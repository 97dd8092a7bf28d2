"""Episodes as token rows: which ids the model reads, which of them the policy wrote, to which step they belong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from empg.rollout.types import Episode


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of ids and the flat list of the M tokens that the policy wrote in them.

    A row is one sequence for the model: a whole episode (`merged`) or one turn with its prompt (`per_turn`). `step` is
    the index of a token's step among all steps of the batch, `episode` that of its episode; both count in the order
    in which the episodes were given.
    """

    rows: list[list[int]]
    row: Tensor  # (M,) int64, the row a token is in
    column: Tensor  # (M,) int64, its position there
    step: Tensor  # (M,) int64
    episode: Tensor  # (M,) int64
    logprobs: Tensor  # (M,) float32, as sampled

    def __len__(self) -> int:
        return len(self.row)


def make_batch(episodes: Sequence[Episode], history: str) -> TokenBatch:
    """Lay out episodes as `merged` or `per_turn` rows. Observation and prompt ids belong to no step."""
    rows: list[list[int]] = []
    spans: list[tuple[int, int, int, int]] = []  # row, first column, step, episode
    lengths: list[int] = []
    logprobs: list[float] = []
    step = 0
    for number, episode in enumerate(episodes):
        for index, turn in enumerate(episode.turns):
            if history == "per_turn" or index == 0:
                rows.append([])
            row = rows[-1]
            row.extend(turn.prompt_ids)
            spans.append((len(rows) - 1, len(row), step, number))
            lengths.append(len(turn.action_ids))
            logprobs.extend(turn.logprobs)
            row.extend(turn.action_ids)
            step += 1
    table = np.repeat(np.array(spans, dtype=np.int64).reshape(-1, 4), lengths, axis=0)
    total = int(sum(lengths))
    starts = np.repeat(np.cumsum(lengths, dtype=np.int64) - np.array(lengths, dtype=np.int64), lengths)
    columns = table[:, 1] + np.arange(total) - starts
    return TokenBatch(
        rows,
        row=torch.from_numpy(table[:, 0].copy()),
        column=torch.from_numpy(columns),
        step=torch.from_numpy(table[:, 2].copy()),
        episode=torch.from_numpy(table[:, 3].copy()),
        logprobs=torch.tensor(logprobs, dtype=torch.float32),
    )


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass: padded ids (B, T) and the tokens scored in it, as indices into the batch's flat list."""

    input_ids: Tensor
    rows: Tensor
    columns: Tensor
    tokens: Tensor


def micro_batches(batch: TokenBatch, keep: Tensor, budget: int, device: torch.device) -> Iterator[MicroBatch]:
    """Cut a batch into forward passes of at most `budget` ids, padding included; rows of like length go together.

    Args:
        batch: the rows.
        keep: (M,) bool, the tokens to score; rows without any are skipped.
        budget: ids per pass; a single longer row is a pass of its own.
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
        yield MicroBatch(ids.to(device), place_of[inside].to(device), batch.column[tokens].to(device), tokens)
