"""How well the credit of a rule agrees with the worth of actions, on recorded episodes and without training.

The worth of an action is its advantage, Q(s, a) - V(s), under the policy that chose it. The other episodes of the group
tell it, where some of them read and did the same before the step:

    V(i,t)  success rate of the other episodes of the group that read and did the same up to the observation of the step
    Q(i,t)  success rate of those among them that also took the action of the step
    w(i,t)  = Q(i,t) - V(i,t)             known if another episode took the action, and another one did not

The outcome of the episode itself is not used, so credit from that outcome cannot agree with w by construction. The
alignment of a rule is the cosine between its final advantages and w over all steps that were trained on:

    alignment = sum c w A / sqrt(sum c w^2 * sum c A^2)             w = 0 where it is unknown
    c(i,t)    = 1 - exp(-H(i,t))

c is the expected squared gradient of Proposition 1 of EMPG (arXiv 2509.09265), with the step entropy in place of the
Renyi-2 entropy of each token, which a run does not record. Credit for a step that cannot move the policy counts little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from empg.credit import MODULATIONS, ModulationInputs, StepTable
from empg.errors import UserError
from empg.learner.assign import length_share
from empg.recipe_modulation import named, read_modulation
from empg.record.aggregate import RESAMPLES, Estimate
from empg.record.loading import LoadedRun
from empg.record.runfolder import RunFolder
from empg.rollout.types import EndReason
from empg.run.display import Stage
from empg.yaml_text import read_yaml

_AT_ONCE = 100  # bootstrap draws in one product of matrices
_LEAST = 2  # groups that a bootstrap needs


@dataclass(frozen=True, eq=False, kw_only=True)
class CreditRule:
    """A rule to measure: a modulation with its options, or the base algorithm alone (`modulation` None)."""

    label: str
    modulation: str | None = None
    options: Any = None

    def credit(self, seen: ModulationInputs) -> Tensor:
        """Return the final advantage of each step of an iteration, (N,).

        Raises:
            UserError: the rule needs what the run has not recorded.
        """
        if self.modulation is not None:
            try:
                return MODULATIONS[self.modulation](seen, self.options).advantage
            except ValueError as error:
                raise UserError(f"--rule {self.label}: {error}") from None
        process = seen.steps.process_reward
        return seen.steps.advantage if process is None else seen.steps.advantage + process


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


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The alignment of a rule, and its ratio to that of the reference; 95% intervals over groups."""

    label: str
    alignment: Estimate
    ratio: Estimate


@dataclass(frozen=True, kw_only=True)
class AlignedTenth:
    """A tenth of the steps, by step entropy within their iteration, under the base algorithm.

    Attributes:
        entropy: mean step entropy, nats.
        known: share of the steps whose worth is known.
        won: share of the steps that belong to won episodes.
        alignment: cosine between the base advantage and w over the steps whose worth is known, without weights.
    """

    entropy: float
    known: float
    won: float
    alignment: Estimate


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """What `measure_alignment` found.

    Attributes:
        steps: number of steps that were trained on.
        known: how many of them have a known worth.
        groups: number of groups.
        reference: label of the rule that ratios are taken to.
        rules: in the order in which they were given.
        tenths: from the lowest entropy to the highest.
        problems: what could not be read, in words.
    """

    steps: int
    known: int
    groups: int
    reference: str
    rules: list[Aligned]
    tenths: list[AlignedTenth]
    problems: list[str]


def every_rule() -> list[str]:
    """Return the base algorithm alone and all modulations with their defaults, as `read_rule` takes them."""
    return ["none", *MODULATIONS]


def read_rule(text: str) -> CreditRule:
    """Return the rule that a text names: as `credit.modulation` of a recipe, or `none` for the base algorithm alone.

    Raises:
        UserError: it is not YAML, or names an unknown rule or option.
    """
    given = read_yaml(text, f"--rule {text}")
    section = named("none" if given is None else given, "--rule")
    if section is None:
        return CreditRule(label="none")
    if not isinstance(section, dict):
        raise UserError(f"--rule {text}: expected a name, or options as in {{name: empg, k: 2}}")
    label = " ".join(f"{value}" if key == "name" else f"{key}={value}" for key, value in section.items())
    return CreditRule(label=label, modulation=section.get("name", "empg"), options=read_modulation(section, "--rule"))


def measure_alignment(
    runs: Sequence[RunFolder], rules: Sequence[CreditRule], reference: CreditRule, stage: Stage
) -> AlignmentReport:
    """Measure the alignment of each rule on all recorded iterations of some runs.

    Args:
        runs: run folders with `episodes/`.
        rules: what to measure.
        reference: the rule that ratios are taken to.
        stage: shows the progress.

    Raises:
        UserError: no step has a known worth, or fewer than two groups have one.
    """
    files = [(run, iteration) for run in runs for iteration in run.episode_iterations()]
    done = stage("credit of recorded episodes", len(files))
    every = [reference, *rules]
    sums: list[np.ndarray] = []  # of each group: sum c w^2, then sum c w A and sum c A^2 of each rule
    by_tenth: list[np.ndarray] = []  # of each group and tenth: steps, H, known, won, w A, w^2, A^2
    problems: list[str] = []
    for number, found in enumerate(_recorded(files, problems), 1):
        if found is not None:
            sums.append(_sums(found, every))
            by_tenth.append(_tenth_sums(found))
        done(number)
    groups = np.concatenate(sums) if sums else np.zeros((0, 1))
    if np.count_nonzero(groups[:, 0]) < _LEAST:
        raise UserError(
            "credit: no worth of an action can be estimated: it needs groups of recorded episodes (rollout.group_size) "
            "that begin with the same steps, then take different actions, and differ in success"
            + "".join(f"; {problem}" for problem in problems[:1])
        )
    parts = np.concatenate(by_tenth)
    draws = _Draws(len(groups))
    values, drawn = _alignments(groups.sum(0)[None])[0], draws.of(groups, _alignments)
    rules_found = [
        Aligned(
            label=rule.label,
            alignment=_estimate(values[place], drawn[:, place]),
            ratio=_estimate(_ratio(values[place], values[0]), _ratio(drawn[:, place], drawn[:, 0])),
        )
        for place, rule in enumerate(every)
        if place
    ]
    return AlignmentReport(
        steps=int(parts[..., 0].sum()),
        known=int(parts[..., 2].sum()),
        groups=len(groups),
        reference=reference.label,
        rules=rules_found,
        tenths=_tenths(parts, draws),
        problems=problems,
    )


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
        finished=_finished(columns["iteration"][0], recipe or {}),
    )
    won = np.array(columns["success"], dtype=bool)
    return RecordedSteps(seen=seen, worth=worth[counted], known=known[counted], won=won[counted])


def _rewards(columns: Mapping[str, Sequence[Any]], episode: np.ndarray, recipe: Mapping[str, Any]) -> np.ndarray:
    """Return the reward of each episode as it was trained on: that of the environment minus the penalty for length."""
    rewards = np.bincount(episode, weights=[r or 0.0 for r in columns["reward"]])
    credit, rollout, agent = (recipe.get(name) or {} for name in ("credit", "rollout", "agent"))
    penalty, ramp = credit.get("overlong_penalty") or 0.0, credit.get("overlong_ramp") or 0.0
    if penalty:
        read, wrote = columns["num_prompt_tokens"], columns["num_action_tokens"]
        lengths: list[list[int]] = [[] for _ in rewards]
        for place, tokens in zip(episode, zip(read, wrote, strict=True), strict=True):
            lengths[place].append(sum(count or 0 for count in tokens))
        ends = dict(zip(episode.tolist(), columns["end"], strict=True))
        limit, merged = rollout.get("max_episode_tokens") or 0, agent.get("history") == "merged"
        for place, turns in enumerate(lengths):
            rewards[place] -= penalty * length_share(turns, EndReason(ends[place]), limit, ramp, merged=merged)
    return rewards


def _finished(iteration: int, recipe: Mapping[str, Any]) -> float:
    """Return the share of the run's iterations that were finished when this one was credited; 0 if unknown."""
    planned = recipe.get("iterations")
    return min(1.0, (iteration - 1) / planned) if isinstance(planned, int) and planned > 0 else 0.0


_COLUMNS = (
    "iteration", "episode", "group", "observation", "action", "text", "reward", "success", "end", "entropy",
    "action_entropy", "advantage_outcome", "process_reward", "advantage", "num_prompt_tokens", "num_action_tokens",
)  # fmt: skip


def _worth(columns: Mapping[str, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return w of all steps, 0 where it is unknown, and where it is known."""
    numbers: dict[tuple[Any, ...], int] = {}
    states, choices = [], []
    last: Any = None
    before: tuple[Any, ...] = ()
    rows = zip(*(columns[name] for name in ("episode", "group", "observation", "action", "text")), strict=True)
    for episode, group, observation, action, text in rows:
        if episode != last:
            last, before = episode, (group,)
        state = numbers.setdefault((*before, observation), len(numbers))
        choice = numbers.setdefault((state, action if action is not None else text), len(numbers))
        states.append(state)
        choices.append(choice)
        before = (choice,)
    won = np.array(columns["success"], dtype=float)
    here, alike = np.array(states), np.array(choices)
    others, same = (np.bincount(ids)[ids] - 1 for ids in (here, alike))
    won_others, won_same = (np.bincount(ids, weights=won)[ids] - won for ids in (here, alike))
    known = (same > 0) & (others > same)
    safe = np.where(known, same, 1), np.where(known, others, 1)
    return np.where(known, won_same / safe[0] - won_others / safe[1], 0.0), known


def _recorded(files: Sequence[tuple[RunFolder, int]], problems: list[str]) -> Iterator[RecordedSteps | None]:
    """Yield the steps of each iteration, and add to `problems` what cannot be read."""
    for run, iteration in files:
        loaded, found = LoadedRun(run), None
        try:
            found = recorded_steps(loaded.steps_of(iteration), run.recipe_values())
        except ValueError as error:  # a damaged file
            problems.append(f"{run.episodes_path(iteration)}: {error}")
        problems += loaded.problems
        yield found


def _sums(found: RecordedSteps, rules: Sequence[CreditRule]) -> np.ndarray:
    """Return (groups, 1 + 2 rules): sum c w^2, and for each rule sum c w A and sum c A^2."""
    columns = [found.weight * found.worth**2]
    for rule in rules:
        credit = rule.credit(found.seen).double().numpy()
        columns += [found.weight * found.worth * credit, found.weight * credit**2]
    return np.stack([np.bincount(found.group, weights=column) for column in columns], axis=-1)


def _alignments(sums: np.ndarray) -> np.ndarray:
    """Return (..., rules) cosines of sums (..., 1 + 2 rules); 0 where a rule gives no credit."""
    size = np.sqrt(sums[..., :1] * sums[..., 2::2])
    return np.asarray(np.divide(sums[..., 1::2], size, out=np.zeros_like(size), where=size > 0))


def _tenth_sums(found: RecordedSteps) -> np.ndarray:
    """Return (groups, 10, 7): steps, H, known, won, w A, w^2 and A^2 where w is known, of each tenth by entropy."""
    entropy = found.seen.steps.entropy.double().numpy()
    place = np.empty(len(entropy), dtype=int)
    for tenth, (low, high) in enumerate(pairwise(len(entropy) * part // 10 for part in range(11))):
        place[np.argsort(entropy, kind="stable")[low:high]] = tenth
    credit = np.where(found.known, found.seen.steps.advantage.double().numpy(), 0.0)
    columns = [np.ones_like(entropy), entropy, found.known, found.won, found.worth * credit, found.worth**2, credit**2]
    cell = 10 * found.group + place
    cells = 10 * (int(found.group.max()) + 1)
    return np.stack([np.bincount(cell, weights=c, minlength=cells) for c in columns], axis=-1).reshape(-1, 10, 7)


def _tenths(parts: np.ndarray, draws: _Draws) -> list[AlignedTenth]:
    found = []
    for sums in parts.transpose(1, 0, 2):
        total = sums.sum(0)
        if not total[0]:
            continue
        cosines = sums[:, [5, 4, 6]]
        found.append(
            AlignedTenth(
                entropy=total[1] / total[0],
                known=total[2] / total[0],
                won=total[3] / total[0],
                alignment=_estimate(_alignments(cosines.sum(0)[None])[0, 0], draws.of(cosines, _alignments)[:, 0]),
            )
        )
    return found


class _Draws:
    """Bootstrap draws of groups: the same ones for every statistic, so that ratios are paired."""

    def __init__(self, groups: int) -> None:
        self._groups = groups

    def of(self, sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return (draws, ...): the statistic of the sums (groups, columns) over the drawn groups."""
        rng, found = np.random.default_rng(0), []
        for _ in range(0, RESAMPLES, _AT_ONCE):
            counts = rng.multinomial(self._groups, np.full(self._groups, 1 / self._groups), size=_AT_ONCE)
            found.append(statistic(counts @ sums))
        return np.concatenate(found)


def _ratio(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return values / reference; NaN where the reference is 0."""
    return np.asarray(np.divide(values, reference, out=np.full_like(values, np.nan), where=reference != 0))


def _estimate(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
