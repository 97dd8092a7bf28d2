"""The modulation of a verl batch: verl's advantages in, modulated ones out. Tensors alone, without verl.

verl keys a row `{uid}_{session}_{index}`: the group, the episode in it, and which output of the episode the row is. An
agent that starts a new context has several outputs per episode. Rows come in any order.

Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from empg.credit import (
    MODULATIONS,
    ModulationInputs,
    StepCredit,
    StepTable,
    TokenLayout,
    step_ids_from_mask,
    without_gaps,
)
from empg.credit.checks import first_true


@dataclass(frozen=True, eq=False, kw_only=True)
class Modulated:
    """The modulated advantages of a batch.

    Attributes:
        advantages: `(B, T)` float32, 0 outside the tokens of the loss.
        steps: the steps of the batch, in time order within each episode.
        credit: their credit.
    """

    advantages: Tensor
    steps: StepTable
    credit: StepCredit


def modulate_rows(
    keys: Sequence[str],
    advantages: Tensor,
    entropies: Tensor,
    step_ids: Tensor,
    rewards: Tensor,
    modulation: Mapping[str, Any],
    finished: float = 0.0,
) -> Modulated:
    """Modulate the advantages of the rows of a batch.

    Args:
        keys: `{uid}_{session}_{index}` of each row.
        advantages: `(B, T)`, constant within each step.
        entropies: `(B, T)` token entropies, nats.
        step_ids: `(B, T)`, see `StepTable.from_tokens`; a row without a step takes no part.
        rewards: `(B,)`; the last row of an episode has its outcome.
        modulation: `name` of a rule and its options.
        finished: share of the training that is finished.

    Raises:
        ValueError: a key has another form, or what `StepTable` rejects.
    """
    places = [place(key) for key in keys]
    present = [row for row, used in enumerate((step_ids >= 0).any(1).tolist()) if used]
    sessions = {session: number for number, session in enumerate(dict.fromkeys(places[row][:2] for row in present))}
    # The rows of an episode one after another, in time order.
    order = sorted(present, key=lambda row: (sessions[places[row][:2]], places[row][2]))
    last = {places[row][:2]: row for row in order}
    numbers = {uid: number for number, uid in enumerate(dict.fromkeys(uid for uid, _ in sessions))}

    layout = TokenLayout.of(step_ids[order])
    rows = StepTable.from_layout(layout, advantages[order], entropies[order])
    episode = torch.tensor([sessions[places[row][:2]] for row in order], dtype=torch.long)
    steps = StepTable(
        entropy=rows.entropy, episode=episode.to(rows.episode.device)[rows.episode], advantage=rows.advantage
    )
    options = dict(modulation)
    rule = MODULATIONS[options.pop("name")]
    seen = ModulationInputs(
        steps=steps,
        rewards=rewards[[last[session] for session in sessions]].float(),
        groups=torch.tensor([numbers[uid] for uid, _ in sessions], dtype=torch.long, device=rewards.device),
        finished=finished,
    )
    credit = rule(seen, rule.options(**options))
    result = torch.zeros_like(advantages, dtype=torch.float32)
    result[order] = layout.to_tokens(credit.advantage)
    return Modulated(advantages=result, steps=steps, credit=credit)


def step_ids_of(given: Sequence[Sequence[int] | None], written: Tensor, counted: Tensor) -> Tensor:
    """Return `(B, T)` int64, the step of each token, -1 outside the tokens of the loss.

    Args:
        given: for each row the step of each token, -1 outside what the model wrote; None takes runs of `written`.
        written: `(B, T)`, 1 at tokens that the model wrote.
        counted: `(B, T)`, 1 at tokens of the loss: those that are written and were not rejected.

    Raises:
        ValueError: a row has more steps ids than tokens, or a token of the model without a step, or what
            `step_ids_from_mask` rejects.
    """
    steps = step_ids_from_mask(written)
    for row, ids in enumerate(given):
        if ids is None:
            continue
        if len(ids) > steps.shape[1]:
            raise ValueError(f"step_ids: row {row}: expected at most {steps.shape[1]}, got {len(ids)}")
        steps[row] = -1
        steps[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
        if (missing := first_true((steps[row] < 0) & (written[row] == 1))) is not None:
            raise ValueError(f"step_ids: row {row}: token {missing} is of the model and has no step")
    return without_gaps(steps.masked_fill_(counted == 0, -1))  # a step's tokens may all be rejected


def place(key: str) -> tuple[str, str, int]:
    """Return the group, the episode in it and the number of the output of a key; raises `ValueError`."""
    parts = key.rsplit("_", 2)
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ValueError(f"expected a key uid_session_index, got {key!r:.80}")
    return parts[0], parts[1], int(parts[2])
