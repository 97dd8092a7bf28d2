"""The step: what EMPG gives credit to.

A step is one whole turn of the agent, the tokens it wrote between two observations. `StepTable` lists the steps of a
batch, one row each, without padding; `step_ids` says of each token of a padded batch which step it belongs to.

Shapes: B episodes (rows of a token batch), T tokens, N steps over the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.checks import first_true, require_ids, require_shape
from empg.credit.segments import Segments, segments_of


@dataclass(frozen=True, eq=False)
class StepTable:
    """The steps of one batch, a row each; an episode's rows stand together, in time order.

    Any float dtype is accepted; the table keeps float32 without gradient.

    A step without tokens has no entropy and gets no row: the next step of its predecessor is the one after it.

    Attributes:
        entropy: `(N,)` step entropy H, nats: the mean over the step's tokens of the entropy of the full-vocabulary
            distribution that the token was sampled from.
        episode: `(N,)` int64, the episode of the step; any ids.
        advantage: `(N,)` outcome advantage A of the step's episode (`outcome_advantages`). It may differ between the
            steps of an episode where the base algorithm has step-level advantages.
        process_reward: `(N,)` reward of the single step, from an environment or a reward model, or None.

    Raises:
        ValueError: shapes differ, a value is not finite, or an episode's rows do not stand together.
    """

    entropy: Tensor
    episode: Tensor
    advantage: Tensor
    process_reward: Tensor | None = None

    def __post_init__(self) -> None:
        if self.entropy.ndim != 1:
            raise ValueError(f"entropy: one number per step, shape (N,), is needed; got {tuple(self.entropy.shape)}")
        require_ids("episode", self.episode)
        require_shape("episode", self.episode, self.entropy.shape, of="entropy")
        object.__setattr__(self, "episode", self.episode.detach().long())
        self._require_whole_episodes()
        for name in ("entropy", "advantage", "process_reward"):
            values: Tensor | None = getattr(self, name)
            if values is None:
                continue
            require_shape(name, values, self.entropy.shape, of="entropy")
            if (row := first_true(~values.isfinite())) is not None:
                where = f"row {row} (episode {int(self.episode[row])}, step {int(self.step[row])})"
                raise ValueError(f"{name}: {where} is {float(values[row])}; drop the step or mend its source")
            object.__setattr__(self, name, values.detach().float())

    def __len__(self) -> int:
        return self.entropy.shape[0]

    @property
    def has_next(self) -> Tensor:
        """`(N,)` bool: the next row is the same episode's next step. False for an episode's last step."""
        return self._starts().logical_not().roll(-1)

    @property
    def step(self) -> Tensor:
        """`(N,)` int64: the step's place in its episode, counted from 0."""
        row, starts = torch.arange(len(self), device=self.episode.device), self._starts()
        return row - row[starts][starts.cumsum(0) - 1]

    @classmethod
    def from_tokens(cls, advantages: Tensor, entropies: Tensor, step_ids: Tensor) -> StepTable:
        """The steps of a padded token batch, in reading order; `to_tokens` leads back.

        Args:
            advantages: `(B,)`, or `(B, T)` and constant within each step.
            entropies: `(B, T)` token entropies, nats; read at agent tokens only, padding may hold anything.
            step_ids: `(B, T)` int, -1 outside agent tokens, else the step's index within its row, 0, 1, 2, ... in time
                order. A row is a whole episode.

        Raises:
            ValueError: shapes disagree; step ids go backwards, skip one or do not start at 0; an agent token's entropy
                or advantage is not finite; an advantage varies inside a step. The message names row and step.
        """
        rows = step_rows(step_ids)
        require_shape("entropies", entropies, step_ids.shape, of="step_ids")
        if advantages.shape not in (step_ids.shape[:1], step_ids.shape):
            allowed = f"{tuple(step_ids.shape[:1])} or {tuple(step_ids.shape)}"
            raise ValueError(f"advantages: shape {allowed} is needed, got {tuple(advantages.shape)}")

        agent = rows >= 0
        episode, step = agent.nonzero()[:, 0], segments_of(rows[agent])
        entropy = entropies.detach()[agent].float()
        advantage = advantages.detach().float()
        advantage = advantage[episode] if advantage.ndim == 1 else advantage[agent]

        def where(token: int) -> str:
            return f"row {int(episode[token])}, step {int(step_ids[agent][token])}"

        for name, values in (("entropies", entropy), ("advantages", advantage)):
            if (token := first_true(~values.isfinite())) is not None:
                raise ValueError(f"{name}: {where(token)} has {float(values[token])}; drop the step or mend its source")
        first = step.sizes.cumsum(0) - step.sizes
        if (token := first_true(advantage != advantage[first][step.index])) is not None:
            raise ValueError(f"advantages: {where(token)} has several values; EMPG gives credit to whole steps")
        return cls(entropy=_step_means(entropy, step), episode=episode[first], advantage=advantage[first])

    def _starts(self) -> Tensor:
        """`(N,)` bool: the row is the first step of an episode."""
        starts = torch.ones_like(self.episode, dtype=torch.bool)
        starts[1:] = self.episode[1:] != self.episode[:-1]
        return starts

    def _require_whole_episodes(self) -> None:
        runs = segments_of(self.episode[self._starts()])
        if (torn := first_true(runs.sizes > 1)) is not None:
            raise ValueError(f"episode: the rows of episode {int(runs.ids[torn])} do not stand together, in time order")


def _step_means(entropy: Tensor, step: Segments) -> Tensor:
    """Mean token entropy of each step: equal for steps of the same tokens, in whatever order and however often.

    Min-max normalisation would blow the last bit of a float32 sum up to the whole of 0 to 1. In float64 the sums of
    float32 numbers are exact but for those that differ in size by more than 2^29.
    """
    where = torch.device("cpu") if entropy.device.type == "mps" else entropy.device  # MPS knows no float64
    sums = torch.zeros(len(step.ids), dtype=torch.float64, device=where)
    sums.index_add_(0, step.index.to(where), entropy.to(where).double())
    return (sums / step.sizes.to(where)).float().to(entropy.device)


def step_rows(step_ids: Tensor) -> Tensor:
    """For each token the row of its step in `StepTable.from_tokens`, -1 outside agent tokens.

    Args:
        step_ids: `(B, T)` int, as in `StepTable.from_tokens`.

    Returns:
        `(B, T)` int64.

    Raises:
        ValueError: step ids go backwards, skip one, do not start at 0 or are below -1; the message names row and step.
    """
    if step_ids.ndim != 2:
        raise ValueError(f"step_ids: one id per token, shape (B, T), is needed; got {tuple(step_ids.shape)}")
    require_ids("step_ids", step_ids)
    if (place := first_true((step_ids < -1).flatten())) is not None:
        row, token = divmod(place, step_ids.shape[1])
        raise ValueError(f"step_ids: row {row}, token {token}: {int(step_ids[row, token])} is no step; outside is -1")

    agent = step_ids >= 0
    row_of, column = agent.nonzero(as_tuple=True)
    step = step_ids[agent].long()
    # With -1 before a row's first agent token, a legal id is the one before it (same step) or one more (next step).
    row_starts = row_of != row_of.roll(1)
    row_starts[:1] = True
    before = step.roll(1).masked_fill(row_starts, -1)
    if (place := first_true((step != before + 1) & (step != before))) is not None:
        found = f"row {int(row_of[place])}, token {int(column[place])}: step {int(step[place])}"
        follows = "comes first" if row_starts[place] else f"follows step {int(before[place])}"
        raise ValueError(f"step_ids: {found} {follows}; number a row's steps 0, 1, 2, ... in time order")
    rows = torch.full_like(step_ids, -1, dtype=torch.int64)
    rows[agent] = (step != before).cumsum(0) - 1
    return rows


def to_tokens(values: Tensor, step_ids: Tensor) -> Tensor:
    """Give every agent token its step's value: `(N,)` and `(B, T)` step ids to `(B, T)`, 0 outside agent tokens."""
    rows = step_rows(step_ids)
    agent = rows >= 0
    tokens = values.new_zeros(rows.shape)
    tokens[agent] = values[rows[agent]]
    return tokens


def step_ids_from_mask(mask: Tensor) -> Tensor:
    """Number the runs of ones: a step is a run of agent tokens between tokens that the agent did not write.

    For callers that only have a loss mask. Two steps with nothing between them look like one.

    Args:
        mask: `(B, T)`, 1 or True at agent tokens, else 0.

    Returns:
        `(B, T)` int64 step ids, -1 outside agent tokens.

    Raises:
        ValueError: wrong shape, or a value other than 0 and 1.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask: one value per token, shape (B, T), is needed; got {tuple(mask.shape)}")
    agent = mask == 1
    if (place := first_true(~(agent | (mask == 0)).flatten())) is not None:
        row, token = divmod(place, mask.shape[1])
        raise ValueError(f"mask: row {row}, token {token} is {mask[row, token].item()}; 0 or 1 is needed")
    starts = agent.clone()
    starts[:, 1:] &= ~agent[:, :-1]
    return (starts.cumsum(1) - 1).masked_fill(~agent, -1)
