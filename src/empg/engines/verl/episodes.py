"""The episodes of a verl batch: from its rows to `Episode` records, and from the credit of steps back to rows.

An agent loop packs each episode into a text, which travels with the last row of the episode. verl's pass of the old
policy adds log-probabilities and entropies. Tensors alone, without verl. Shapes: B rows, T tokens per row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from empg.engines.verl.credit import place
from empg.environments.panels import Panel
from empg.learner.assign import Assigned
from empg.record.records import EpisodeRow
from empg.rollout.types import EndReason, Episode, Turn
from empg.run.columns import episode_rows


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeRows:
    """The episodes of a batch and their rows.

    Attributes:
        episodes: in the order of their first row; `group` numbers verl's groups.
        rows: for each episode its rows, in time order.
        written: `(B, T)` bool, the tokens that the policy wrote.
    """

    episodes: list[Episode]
    rows: list[list[int]]
    written: Tensor

    def to_rows(self, assigned: Assigned) -> tuple[Tensor, Tensor]:
        """Return `(B, T)` float32, the final advantage of each token, and `(B, T)` bool, the tokens to train on."""
        values = iter(zip(assigned.advantages.tolist(), assigned.counted.tolist(), strict=True))
        credit = {id(episode): [next(values) for _ in episode.turns] for episode in assigned.episodes}
        advantages = torch.zeros(self.written.shape)
        counted = torch.zeros(self.written.shape, dtype=torch.bool)
        for episode, rows in zip(self.episodes, self.rows, strict=True):
            steps = credit.get(id(episode), [(0.0, False)] * len(episode.turns))  # not comparable: not trained on
            sizes = torch.tensor([len(turn.action_ids) for turn in episode.turns])
            lengths = self.written[rows].sum(1).tolist()
            for column, table in enumerate((advantages, counted)):
                tokens = torch.tensor([step[column] for step in steps], dtype=table.dtype).repeat_interleave(sizes)
                for row, part in zip(rows, tokens.split(lengths), strict=True):
                    table[row, self.written[row]] = part
        return advantages, counted


def pack(episode: Episode) -> str:
    """Return an episode as text, for `unpack`."""
    return json.dumps(asdict(episode), default=_plain)


def unpack(text: str) -> Episode:
    """Return the episode of a text that `pack` returned."""
    fields = json.loads(text)
    turns = [Turn(**turn) for turn in fields.pop("turns")]
    return Episode(**{**fields, "end": EndReason(fields["end"])}, turns=turns)


def pack_row(number: int, episode: Episode) -> str:
    """Return the place of an episode in its panel and its row as text, for `panel_rows`."""
    [row] = episode_rows([episode])
    return json.dumps([number, row], default=_plain)


def panel_rows(panel: Panel, packed: Sequence[str]) -> list[EpisodeRow]:
    """Return the rows of a panel in its order; an episode that is missing is one whose environment failed."""
    found: dict[int, EpisodeRow] = dict(map(json.loads, packed))
    lost = Episode(task_id="", task_index=0, task_type="", split=panel.split, group=0, end=EndReason.ENV_ERROR)
    rows = []
    for number, (lost.task_index, lost.task_id) in enumerate(zip(panel.tasks, panel.task_ids, strict=True)):
        rows.append(found[number] if number in found else episode_rows([lost])[0])
    return rows


def read_episodes(
    keys: Sequence[str], packed: Sequence[str | None], written: Tensor, logprobs: Tensor, entropies: Tensor
) -> EpisodeRows:
    """Return the episodes of a batch, with log-probabilities and entropies.

    Args:
        keys: `{uid}_{session}_{index}` of each row, in any order.
        packed: for each row the packed episode; only that of the last row of an episode is read.
        written: `(B, T)`, 1 at tokens that the policy wrote; a row without one is verl's padding.
        logprobs: `(B, T)` of these tokens, nats.
        entropies: `(B, T)` of these tokens, nats.

    Raises:
        ValueError: a key has another form; an episode is missing, or its turns have other tokens than its rows.
    """
    mask = written.bool()
    places = [place(key) for key in keys]
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row in torch.nonzero(mask.any(1)).flatten().tolist():
        rows_of.setdefault(places[row][:2], []).append(row)
    groups: dict[str, int] = {}
    episodes = []
    for (uid, session), rows in rows_of.items():
        rows.sort(key=lambda row: places[row][2])
        text = packed[rows[-1]]
        if text is None:
            raise ValueError(f"row {uid}_{session}: expected a packed episode, got none")
        episode = unpack(text)
        episode.group = groups.setdefault(uid, len(groups))
        _fill_in(episode, mask[rows], logprobs[rows], entropies[rows])
        episodes.append(episode)
    return EpisodeRows(episodes=episodes, rows=list(rows_of.values()), written=mask)


def _fill_in(episode: Episode, written: Tensor, logprobs: Tensor, entropies: Tensor) -> None:
    """Give every turn the log-probabilities and entropies of its tokens."""
    sizes = [len(turn.action_ids) for turn in episode.turns]
    if sum(sizes) != int(written.sum()):
        raise ValueError(f"{episode.task_id}: expected {sum(sizes)} written tokens, got {int(written.sum())}")
    columns = (values[written].float().cpu().split(sizes) for values in (logprobs, entropies))
    for turn, logprob, entropy in zip(episode.turns, *columns, strict=True):
        turn.logprobs, turn.entropies = logprob.tolist(), entropy.tolist()


def _plain(value: Any) -> Any:
    """Return what JSON has for another value of an environment."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
