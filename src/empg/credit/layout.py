"""Padded token batches: the step of each token.

`step_ids (B, T)` give for each token of a padded batch the index of its step within its row, -1 outside agent tokens.
`TokenLayout` is the same without padding: the agent tokens in reading order, each with the row of its step in a
`StepTable`.

Shapes: B rows of a token batch, T tokens per row, M agent tokens and N steps over the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.checks import first_true, require_ids, require_tensor
from empg.credit.segments import for_float64


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenLayout:
    """The agent tokens of a padded batch, in reading order.

    Attributes:
        shape: (B, T) of the batch.
        token: `(M,)` int64, the position of each agent token in the flattened batch.
        step: `(M,)` int64, the step of each agent token, numbered 0 .. N-1 over the batch; non-decreasing.
        first: `(N,)` int64, the index into `token` of the first token of each step.
    """

    shape: torch.Size
    token: Tensor
    step: Tensor
    first: Tensor

    @classmethod
    def of(cls, step_ids: Tensor) -> TokenLayout:
        """Check `(B, T)` step ids (see `StepTable.from_tokens`) and lay them out.

        On a GPU this waits twice for the device: for M, and once for N together with the result of all checks.

        Raises:
            ValueError: step ids go backwards, skip one, do not start at 0 or are below -1; the message names row and
                token.
        """
        _require_rows(step_ids)
        require_ids("step_ids", step_ids)
        step_ids = step_ids.long()  # unsigned ids have no -1 to compare with
        agent = step_ids >= 0
        token = agent.flatten().nonzero()[:, 0]
        ids = step_ids.flatten().index_select(0, token)
        before = _ids_before(ids, agent.sum(1))
        jump = ids - before
        # A valid id equals the one before it (same step) or exceeds it by one (next step): its jump is 0 or 1.
        checks = [(step_ids < -1).any(), (jump & ~1).any(), jump.count_nonzero()]
        below, disorder, steps = torch.stack([check.long() for check in checks]).tolist()
        if below or disorder:
            raise _invalid(step_ids, token=token, ids=ids, before=before)
        step = (jump != 0).cumsum(0) - 1
        first = torch.searchsorted(step, torch.arange(steps, device=step.device))
        return cls(shape=step_ids.shape, token=token, step=step, first=first)

    def __len__(self) -> int:
        return self.first.shape[0]

    @property
    def row(self) -> Tensor:
        """`(N,)` int64: the row of the batch that each step is in."""
        return self.token[self.first] // max(1, self.shape[1])

    def step_means(self, values: Tensor) -> Tensor:
        """Return the mean of `values (M,)` over the tokens of each step, `(N,)` float32.

        Steps with the same token values have equal means, in whatever order and however often the values occur:
        min-max normalisation would magnify a difference in the last bit of a float32 sum to the whole range of 0 to 1.
        In float64 the sums of float32 numbers are exact unless the numbers differ in size by more than 2^29.
        """
        device = for_float64(values.device)
        sums = torch.zeros(len(self), dtype=torch.float64, device=device)
        sums.index_add_(0, self.step.to(device), values.to(device).double())
        sizes = torch.diff(self.first, append=self.first.new_full((1,), self.token.shape[0]))
        return (sums / sizes.to(device)).float().to(values.device)

    def to_tokens(self, values: Tensor) -> Tensor:
        """Give each agent token the value of its step: `(N,)` to `(B, T)`, 0 outside agent tokens.

        Raises:
            ValueError: `values` does not have one value per step.
        """
        if values.shape != self.first.shape:
            raise ValueError(f"values: expected one per step, shape ({len(self)},), got {tuple(values.shape)}")
        tokens = values.new_zeros(self.shape.numel())
        return tokens.index_copy_(0, self.token, values.index_select(0, self.step)).view(self.shape)


def _require_rows(step_ids: Tensor) -> None:
    require_tensor("step_ids", step_ids)
    if step_ids.ndim != 2:
        raise ValueError(f"step_ids: expected one id per token, shape (B, T), got {tuple(step_ids.shape)}")


def _ids_before(ids: Tensor, tokens_per_row: Tensor) -> Tensor:
    """Return for each agent token the step id of the agent token before it in its row, -1 for the first of a row."""
    before = torch.cat([ids.new_full((1,), -1), ids])
    # A row without agent tokens marks the start of the row after it, or the spare last place: no case of its own.
    before.index_fill_(0, tokens_per_row.cumsum(0) - tokens_per_row, -1)
    return before[:-1]


def _invalid(step_ids: Tensor, *, token: Tensor, ids: Tensor, before: Tensor) -> ValueError:
    """Find the first invalid step id: below -1 before out of order."""
    width = step_ids.shape[1]
    if (place := first_true((step_ids < -1).flatten())) is not None:
        row, column = divmod(place, width)
        found = f"row {row}, token {column}: {int(step_ids[row, column])} is not a valid step id"
        return ValueError(f"step_ids: {found}; use -1 outside agent tokens")
    place = first_true((ids != before + 1) & (ids != before))
    assert place is not None, "called only if a check failed"
    row, column = divmod(int(token[place]), width)
    position = "comes first" if before[place] == -1 else f"follows step {int(before[place])}"
    found = f"row {row}, token {column}: step {int(ids[place])} {position}"
    return ValueError(f"step_ids: {found}; number the steps of a row 0, 1, 2, ... in time order")


def to_tokens(values: Tensor, step_ids: Tensor) -> Tensor:
    """Give each agent token the value of its step: `(N,)` and `(B, T)` step ids to `(B, T)`, 0 outside agent tokens.

    Raises:
        ValueError: as `TokenLayout.of` and `TokenLayout.to_tokens`.
    """
    return TokenLayout.of(step_ids).to_tokens(values)


def step_ids_from_mask(mask: Tensor) -> Tensor:
    """Number the runs of ones: a step is a run of agent tokens between tokens that the agent did not write.

    For callers that only have a loss mask. Two steps with no token between them look like one. A mask of dtype bool
    needs no check, so on a GPU nothing waits for the device.

    Args:
        mask: `(B, T)`, 1 or True at agent tokens, else 0.

    Returns:
        `(B, T)` int64 step ids, -1 outside agent tokens.

    Raises:
        ValueError: wrong shape, or a value other than 0 and 1.
    """
    require_tensor("mask", mask)
    if mask.ndim != 2:
        raise ValueError(f"mask: expected one value per token, shape (B, T), got {tuple(mask.shape)}")
    agent = mask if mask.dtype == torch.bool else mask == 1
    if agent is not mask and (place := first_true((agent != (mask != 0)).flatten())) is not None:
        row, token = divmod(place, mask.shape[1])
        raise ValueError(f"mask: row {row}, token {token}: expected 0 or 1, got {mask[row, token].item()}")
    starts = agent.clone()
    starts[:, 1:] = agent[:, 1:] > agent[:, :-1]
    # In place: at this size a new tensor costs more than the arithmetic. 0 outside agent tokens, then one less.
    return starts.cumsum(1).mul_(agent).sub_(1)


def without_gaps(step_ids: Tensor) -> Tensor:
    """Return `(B, T)` step ids in which those of a row are 0, 1, 2, ... in their order; -1 stays.

    For rows whose ids have gaps, because a step lost all its tokens. Ids that go backwards still do.

    Raises:
        ValueError: wrong shape.
    """
    _require_rows(step_ids)
    closed = step_ids.to(torch.long, copy=True)
    for row in closed:
        agent = row >= 0
        row[agent] = torch.unique(row[agent], return_inverse=True)[1]
    return closed
