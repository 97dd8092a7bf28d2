"""The contract of a credit modulation: from the advantages of the base algorithm to the final advantage of each step.

A modulation is a module of this package: its docstring is the definition, `MODULATION` the entry of the table
`MODULATIONS`. It sees the steps of the whole update as one record and returns a `StepCredit`. Its constants are a
frozen dataclass whose defaults are the recipe's defaults and whose `__post_init__` checks them.

Shapes: E episodes, N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from empg.credit.checks import (
    LARGEST,
    SMALLEST_EPS,
    checked_rewards,
    require_between,
    require_choice,
    require_index,
)
from empg.credit.reduce import Reduce, one_worker
from empg.credit.steps import StepTable

Options = TypeVar("Options")


@dataclass(frozen=True, eq=False, kw_only=True)
class ModulationInputs:
    """The steps of an update as a modulation sees them, and the outcome of their episodes.

    A field that only some modulations use is optional. A new one gets a default, so that the modulations and callers
    that do not use it stay as they are.

    Attributes:
        steps: the N steps that this worker holds, with entropies, base advantages and process rewards. `steps.episode`
            is an index into `rewards`.
        rewards: `(E,)` outcome reward of each episode; kept as float32.
        groups: `(E,)` int, equal for the episodes of a group. All episodes of a group are on one worker.
        reduce: makes statistics over all steps global over workers; by default there is one. Every worker makes the
            same calls, also one without steps.
        finished: share of the run's iterations that are finished, from 0 to 1.

    Raises:
        ValueError: shapes disagree, a reward is NaN or above `checks.LARGEST` in size, `finished` is not from 0 to 1,
            or a step belongs to an episode without a reward.
    """

    steps: StepTable
    rewards: Tensor
    groups: Tensor
    reduce: Reduce = one_worker
    finished: float = 0.0

    def __post_init__(self) -> None:
        require_between("finished", self.finished, 0.0, 1.0)
        object.__setattr__(self, "rewards", checked_rewards(self.rewards, self.groups))
        require_index("steps.episode", self.steps.episode, len(self.rewards), of="rewards")


@dataclass(frozen=True, eq=False, kw_only=True)
class StepCredit:
    """The result of a modulation for each step, with the intermediates that it has; all `(N,)` float32.

    The run records every intermediate that is not None.

    Attributes:
        advantage: the final advantage, which every token of the step carries into the loss.
        normalised_entropy: Hn, step entropy scaled to 0 to 1.
        scale: g, the factor of the base advantage.
        clarity: f of the next step.
        modulated: the value before the last normalisation (for gtpo and grpo_s the shaped reward).
    """

    advantage: Tensor
    normalised_entropy: Tensor | None = None
    scale: Tensor | None = None
    clarity: Tensor | None = None
    modulated: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Modulation(Generic[Options]):
    """An entry of the table `MODULATIONS`.

    Attributes:
        name: the name in recipes (`credit.modulation`) and of the module.
        summary: the definition in one line.
        options: the dataclass of the constants. Each has a default; wrong ones are a ValueError that begins with the
            name of the constant.
        modulate: from the inputs and the constants to the credit of each step.
        compares_within_group: whether a group needs at least two episodes (`rollout.group_size` > 1).
    """

    name: str
    summary: str
    options: type[Options]
    modulate: Callable[[ModulationInputs, Options], StepCredit]
    compares_within_group: bool = False

    @torch.no_grad()
    def __call__(self, inputs: ModulationInputs, options: Options | None = None) -> StepCredit:
        """Modulate; `options` None means the defaults.

        Raises:
            ValueError: the options are those of another modulation, or the modulation does not return one float32 per
                step.
        """
        options = self.options() if options is None else options
        if not isinstance(options, self.options):
            raise ValueError(f"{self.name}: expected {self.options.__name__}, got {type(options).__name__}")
        credit = self.modulate(inputs, options)
        wanted = inputs.steps.entropy.shape
        for name, values in vars(credit).items():
            if values is not None and (values.shape != wanted or values.dtype != torch.float32):
                found = f"got {tuple(values.shape)} {values.dtype}"
                raise ValueError(f"{self.name}: {name}: expected {tuple(wanted)} float32, one per step, {found}")
        return credit


def require_constants(options: Any, *, at_least_zero: tuple[str, ...] = (), positive: tuple[str, ...] = ()) -> None:
    """Raise a ValueError that names the first constant that is wrong.

    The named ones must be finite and in bounds. A field whose type is a `Literal` must have one of its values.
    """
    for name, annotation in get_type_hints(type(options)).items():
        if get_origin(annotation) is Literal:
            require_choice(name, getattr(options, name), get_args(annotation))
    for names, least in ((at_least_zero, 0.0), (positive, SMALLEST_EPS)):
        for name in names:
            require_between(name, getattr(options, name), least, LARGEST)
