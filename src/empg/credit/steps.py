"""The step: the unit that EMPG assigns credit to.

A step is one whole turn of the agent, the tokens it wrote between two observations. A `StepTable` lists the steps of a
batch, one row per step, without padding.

Shapes: B rows of a token batch, T tokens per row, N steps over the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.checks import (
    first_true,
    in_bounds,
    out_of_bounds,
    require_contiguous,
    require_ids,
    require_shape,
    require_tensor,
    require_vector,
)
from empg.credit.layout import TokenLayout
from empg.credit.segments import index_in_run, next_in_run


@dataclass(frozen=True, eq=False, kw_only=True)
class StepTable:
    """The steps of one batch, one row per step; the rows of an episode are contiguous and in time order.

    Any float dtype is accepted; the table keeps float32 without gradient.

    A step without tokens has no entropy and gets no row: the next step of its predecessor is the one after it.

    On a GPU the constructor waits once for the device, for the result of all its checks.

    Attributes:
        entropy: `(N,)` step entropy H, nats: the mean over the tokens of the step of the entropy of the
            full-vocabulary distribution that the token was sampled from.
        episode: `(N,)` int64, the episode of the step; any ids.
        advantage: `(N,)` advantage A of the step, from the base algorithm (`ADVANTAGES`): that of its episode, or its
            own if the base algorithm has step-level advantages.
        process_reward: `(N,)` reward of the single step, from an environment or a reward model, or None.
        action_entropy: `(N,)` as `entropy`, but the mean over the tokens of the action alone, without the thought; None
            where it is unknown which tokens these are.

    Raises:
        ValueError: shapes differ, a value is NaN or above `checks.LARGEST` in size, or the rows of an episode are not
            contiguous.
    """

    entropy: Tensor
    episode: Tensor
    advantage: Tensor
    process_reward: Tensor | None = None
    action_entropy: Tensor | None = None

    def __post_init__(self) -> None:
        require_vector("entropy", self.entropy, "step", "N")
        require_ids("episode", self.episode)
        require_shape("episode", self.episode, self.entropy.shape, of="entropy")
        object.__setattr__(self, "episode", self.episode.detach().long())
        columns = {"entropy": self.entropy, "advantage": self.advantage}
        optional = {"process_reward": self.process_reward, "action_entropy": self.action_entropy}
        columns |= {name: values for name, values in optional.items() if values is not None}
        for name, values in columns.items():
            require_shape(name, values, self.entropy.shape, of="entropy")
            object.__setattr__(self, name, values.detach().float())
        # Ascending episode ids are contiguous, and only others are searched; so one flag decides for all columns.
        suspicious = [(self.episode[1:] < self.episode[:-1]).any()]
        suspicious += [~_allowed(name, getattr(self, name)).all() for name in columns]
        if bool(torch.stack(suspicious).any()):
            require_contiguous("episode", self.episode)
            for name, values in columns.items():
                self._require_bounded(name, values)

    def __len__(self) -> int:
        return self.entropy.shape[0]

    @property
    def has_next(self) -> Tensor:
        """`(N,)` bool: the next row is the next step of the same episode. False for the last step of an episode."""
        return next_in_run(self.episode)

    @property
    def step(self) -> Tensor:
        """`(N,)` int64: the index of the step in its episode, counted from 0."""
        return index_in_run(self.episode)

    def plus_process_reward(self, values: Tensor) -> Tensor:
        """Return `values (N,)` plus the process reward of each step; unchanged if the table has none."""
        return values if self.process_reward is None else values + self.process_reward

    @classmethod
    def from_tokens(cls, advantages: Tensor, entropies: Tensor, step_ids: Tensor) -> StepTable:
        """Build the table of a padded token batch, in reading order; `to_tokens` is the inverse.

        Args:
            advantages: `(B,)`, or `(B, T)` and constant within each step.
            entropies: `(B, T)` token entropies, nats; read at agent tokens only, padding may hold anything.
            step_ids: `(B, T)` int, -1 outside agent tokens, else the index of the step within its row, 0, 1, 2, ... in
                time order. A row is a whole episode.

        Raises:
            ValueError: shapes disagree; step ids go backwards, skip one or do not start at 0; the entropy of a step or
                an advantage is NaN or above `checks.LARGEST` in size; an advantage varies inside a step. The message
                names row and step.
        """
        return cls.from_layout(TokenLayout.of(step_ids), advantages, entropies)

    @classmethod
    def from_layout(cls, layout: TokenLayout, advantages: Tensor, entropies: Tensor) -> StepTable:
        """Build the table of a padded token batch whose step ids are laid out already; see `from_tokens`.

        On a GPU this waits once for the device, for the result of all checks.
        """
        require_shape("entropies", entropies, layout.shape, of="step_ids")
        require_tensor("advantages", advantages)
        if advantages.shape not in (layout.shape[:1], layout.shape):
            allowed = f"{tuple(layout.shape[:1])} or {tuple(layout.shape)}"
            raise ValueError(f"advantages: expected shape {allowed}, got {tuple(advantages.shape)}")
        row = layout.row
        entropy = entropies.detach().flatten().index_select(0, layout.token).float()
        advantage = advantages.detach().float()
        varies = None
        if per_token := advantages.ndim == 2:
            advantage = advantage.flatten().index_select(0, layout.token)
            varies = (advantage[1:] != advantage[:-1]) & (layout.step[1:] == layout.step[:-1])
        else:
            advantage = advantage[row]

        # A mean is in bounds only if all its tokens are finite: a float64 sum of float32 numbers does not overflow.
        means = layout.step_means(entropy)
        wrong = [~_entropies(means).all(), ~in_bounds(advantage).all()] + ([] if varies is None else [varies.any()])
        if bool(torch.stack(wrong).any()):
            raise _invalid(layout, row, entropy=means, advantage=advantage, varies=varies)
        return cls._unchecked(entropy=means, episode=row, advantage=advantage[layout.first] if per_token else advantage)

    @classmethod
    def _unchecked(cls, *, entropy: Tensor, episode: Tensor, advantage: Tensor) -> StepTable:
        """Build a table from values that were checked already: another check would wait for the device once more."""
        table = object.__new__(cls)
        columns = {"entropy": entropy, "episode": episode, "advantage": advantage}
        for name, values in {**columns, "process_reward": None, "action_entropy": None}.items():
            object.__setattr__(table, name, values)
        return table

    def _require_bounded(self, name: str, values: Tensor) -> None:
        if (row := first_true(~_allowed(name, values.float()))) is not None:
            place = f"row {row} (episode {int(self.episode[row])}, step {int(self.step[row])})"
            raise _not_allowed(name, place, values[row])


_ENTROPIES = ("entropy", "action_entropy", "entropies")  # as columns of a table, and as an argument


def _entropies(values: Tensor) -> Tensor:
    """Return a bool per value: it can be an entropy. Rounding makes one of about 0 slightly negative."""
    return in_bounds(values) & (values > -0.01)


def _allowed(name: str, values: Tensor) -> Tensor:
    return _entropies(values) if name in _ENTROPIES else in_bounds(values)


def _not_allowed(name: str, place: str, value: Tensor) -> ValueError:
    if name not in _ENTROPIES or not bool(in_bounds(value)):
        return out_of_bounds(name, place, value, "the step")
    found = f"expected at least 0 nats, got {float(value):g}"
    return ValueError(f"{name}: {place}: {found}; pass entropies of distributions, not log-probabilities of tokens")


def _invalid(
    layout: TokenLayout, row: Tensor, *, entropy: Tensor, advantage: Tensor, varies: Tensor | None
) -> ValueError:
    """Find the first step whose entropy, then whose advantage, is out of bounds, or whose advantage varies."""

    def place(step: int) -> str:
        first_of_row = int((row < row[step]).sum())
        return f"row {int(row[step])}, step {step - first_of_row}"

    if (step := first_true(~_entropies(entropy))) is not None:
        return _not_allowed("entropies", place(step), entropy[step])
    if (index := first_true(~in_bounds(advantage))) is not None:
        step = index if varies is None else int(layout.step[index])
        return out_of_bounds("advantages", place(step), advantage[index], "the step")
    assert varies is not None
    token = first_true(varies)
    assert token is not None, "called only if a check failed"
    found = f"advantages: {place(int(layout.step[token]))} has several values"
    return ValueError(f"{found}; EMPG assigns credit to whole steps")
