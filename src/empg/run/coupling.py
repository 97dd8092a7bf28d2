"""How strongly gradients are tied to entropy in a trained policy, and what training did to the entropy of its steps.

The first measurement is Proposition 1 of EMPG (arXiv 2509.09265) on a real policy: for a token sampled from p,

    E ||d log p(token) / d logits||^2 = 1 - sum p^2 = 1 - exp(-H2)

with H2 the Renyi-2 entropy. At the temperature T, p is the softmax of the logits / T, and the right side is divided by
T^2. The size of the gradient with respect to the parameters, which is what training sees, is
measured beside it. The second is the paper's analysis by percentile: the steps of the policy before reinforcement
learning, scored again by the policy after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from empg.environments.panels import Panel
from empg.learner.batch import make_batch, micro_batches
from empg.learner.checkpoint import CheckpointError, Checkpoints
from empg.policy.model import Policy
from empg.policy.scoring import hidden_at, log_softmax_and_entropy, score_tokens
from empg.recipe import Recipe
from empg.record.durable import require_room, write_file
from empg.record.errors import os_errors_as
from empg.record.runfolder import START, RunFolder
from empg.report.entropy_svg import Tenth, tenths
from empg.rollout.types import Episode
from empg.run.build import build_policy, play
from empg.run.display import Stage
from empg.run.evaluate import evaluated_splits, panel_of, panel_requests
from empg.run.recipe import recipe_of
from empg.system.memory import explain_out_of_memory

_ROOM = 1 << 20  # bytes; 64 tasks take about a third


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGradient:
    """One step of an episode under a policy.

    Attributes:
        entropy: step entropy H, the mean over its tokens of the full-vocabulary entropy, nats.
        expected: mean over its tokens of (1 - exp(-H2)) / T^2: the expected squared gradient with respect to the
            logits. H2 is that of the distribution at the temperature T; the logits are not yet divided by T.
        logits: mean over its tokens of the squared gradient of the sampled token's log-probability by the logits.
        parameters: norm of the gradient of the mean log-probability of its tokens by the parameters.
    """

    entropy: float
    expected: float
    logits: float
    parameters: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyMeasurements:
    """The measurements of a run.

    Attributes:
        checkpoint: the trained policy.
        split: split of the tasks that both policies played.
        tasks: how many these are; fewer than requested if the split has fewer.
        temperature: temperature T of all values, `evaluation.temperature` of the recipe.
        gradients: the steps that the trained policy played.
        before: H of the steps that the policy before reinforcement learning played, nats.
        after: H of the same tokens under the trained policy, nats.
    """

    checkpoint: str
    split: str
    tasks: int
    temperature: float
    gradients: list[StepGradient]
    before: list[float]
    after: list[float]

    @property
    def gradient_tenths(self) -> list[Tenth]:
        """The gradients by tenth of H, with the attributes of `StepGradient` as means."""
        names = [field.name for field in fields(StepGradient)]
        return tenths("entropy", {name: [getattr(step, name) for step in self.gradients] for name in names})

    @property
    def change_tenths(self) -> list[Tenth]:
        """The entropies by tenth of H before learning."""
        return tenths("before", {"before": self.before, "after": self.after})


def measure_entropy(run: Path, stage: Stage, split: str | None = None, episodes: int = 64) -> EntropyMeasurements:
    """Play tasks of a panel with the first and the last policy of a run, and measure gradients and entropies.

    Args:
        run: the run folder, with at least one checkpoint after its start.
        stage: shows the progress.
        split: split of the tasks; None uses the recipe's first evaluation split.
        episodes: tasks that each policy plays once; all tasks of the split, if it has fewer.

    Raises:
        RunFolderError: the run does not exist.
        CheckpointError: a checkpoint does not exist or is damaged.
        UserError: there is no split to choose from.
    """
    folder = RunFolder.open(run)
    recipe = recipe_of(folder)
    split = evaluated_splits(recipe, folder.path)[0] if split is None else split
    checkpoints = Checkpoints(folder.checkpoints)
    last, problems = checkpoints.newest_intact()
    if last is None:
        raise CheckpointError("; ".join(problems) or f"{folder.checkpoints} does not contain a trained policy yet")
    checkpoints.verify(START)
    panel = panel_of(recipe.replaced({"evaluation.episodes": episodes}), split)
    first = build_policy(recipe, folder.start)
    done = stage(f"play {split} before learning", len(panel.tasks))
    early = _play(recipe, first, panel, done)
    trained = build_policy(recipe, folder.checkpoints / last)
    done = stage(f"play {split} at {last}", len(panel.tasks))
    late = _play(recipe, trained, panel, done)
    done = stage("gradients of steps", len(late))
    gradients = []
    with explain_out_of_memory("rollout.max_episode_tokens"):
        for number, episode in enumerate(late, 1):
            gradients += step_gradients(trained, episode, recipe)
            done(number)
    before = [turn.entropy for episode in early for turn in episode.turns]
    with explain_out_of_memory("optimizer.micro_batch_tokens"):
        after = step_entropies(trained, early, recipe)
    return EntropyMeasurements(
        checkpoint=last,
        split=split,
        tasks=len(panel.tasks),
        temperature=recipe.evaluation.temperature,
        gradients=gradients,
        before=before,
        after=after,
    )


def require_writable(folder: RunFolder) -> None:
    """Check that measurements can be written into a run folder, before they are made.

    Raises:
        RunFolderError: the folder cannot be written, or the disk is full.
    """
    with os_errors_as(f"cannot write {folder.entropy}"):
        require_room(folder.path, _ROOM)


def write_measurements(folder: RunFolder, measured: EntropyMeasurements) -> Path:
    """Write `entropy.json` of a run.

    Raises:
        UserError: the file cannot be written.
    """
    write_file(folder.entropy, json.dumps(asdict(measured)))
    return folder.entropy


def step_gradients(policy: Policy, episode: Episode, recipe: Recipe) -> list[StepGradient]:
    """Return the gradients of the steps of an episode, each from a pass of its own over all that came before it."""
    found, temperature = [], recipe.evaluation.temperature
    for log_probs, entropy, sampled in _steps(policy, episode, recipe):
        probs = log_probs.detach().exp()
        collision = probs.square().sum(-1)
        chosen = log_probs.gather(-1, sampled[:, None])[:, 0]
        # The gradient of log p(w) by the logits is ([w] - p) / temperature; its squared norm has no other terms.
        logits = (1 - 2 * chosen.detach().exp() + collision) / temperature**2
        gradients = torch.autograd.grad(chosen.mean(), policy.parameters, allow_unused=True)
        squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
        found.append(
            StepGradient(
                entropy=float(entropy.detach().mean()),
                expected=float((1 - collision).mean()) / temperature**2,
                logits=float(logits.mean()),
                parameters=float(torch.stack(squares).sum().sqrt()),
            )
        )
    return found


@torch.no_grad()
def step_entropies(policy: Policy, episodes: Sequence[Episode], recipe: Recipe) -> list[float]:
    """Return H (nats) of all steps of the episodes under a policy, whichever policy wrote them.

    Passes have the precision of a rollout, so that H before and after learning differ by the weights alone.
    """
    batch = make_batch(episodes, recipe.agent.history)
    every = torch.ones(len(batch), dtype=torch.bool)
    entropies = torch.zeros(len(batch))
    for micro in micro_batches(batch, every, recipe.optimizer.micro_batch_tokens, policy.device):
        with policy.autocast(recipe.optimizer.autocast):
            _, found = score_tokens(policy, micro.input_ids, micro.rows, micro.columns, recipe.evaluation.temperature)
        entropies[micro.tokens] = found.cpu()
    lengths = torch.bincount(batch.step)
    means: list[float] = (torch.zeros(len(lengths)).index_add_(0, batch.step, entropies) / lengths).tolist()
    return means


def _steps(policy: Policy, episode: Episode, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each step its m tokens' log-probabilities (m, V), entropies (m,) in nats, and sampled ids (m,)."""
    batch = make_batch([episode], recipe.agent.history)
    for step in range(len(episode.turns)):
        tokens = torch.nonzero(batch.step == step)[:, 0]
        columns = batch.column[tokens]
        row = batch.rows[int(batch.row[tokens[0]])][: int(columns[-1]) + 1]
        ids = torch.tensor([row], device=policy.device)
        columns = columns.to(policy.device)
        with policy.autocast(recipe.optimizer.autocast):
            hidden = hidden_at(policy, ids, torch.zeros_like(columns), columns - 1)
        yield *log_softmax_and_entropy(policy.logits(hidden), recipe.evaluation.temperature), ids[0, columns]


def _play(recipe: Recipe, policy: Policy, panel: Panel, done: Callable[[int], None]) -> list[Episode]:
    """Play the tasks of a panel with the random numbers of an evaluation."""
    policy.model.eval()
    temperature = recipe.evaluation.temperature
    played = play(recipe, policy, panel.split, panel_requests(panel), temperature=temperature, done=done)
    return [episode for episode in played if episode.turns]
