"""The gradients of steps against Proposition 1, and the entropy of the same steps before and after learning."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from empg.cli import app
from empg.errors import UserError
from empg.learner.checkpoint import CheckpointError, Checkpoints
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import Recipe, dump_recipe, parse_recipe
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder
from empg.rollout.types import Episode, Turn
from empg.run.coupling import (
    EntropyMeasurements,
    StepGradient,
    measure_entropy,
    require_writable,
    step_entropies,
    step_gradients,
)
from empg.run.evaluate import evaluate_run
from empg.run.results import entropy_lines


def recipe(history: str = "merged", temperature: float = 1.0) -> Recipe:
    return parse_recipe(
        {
            "environment": {"max_steps": 3, "options": {"rooms": "small"}},
            "policy": {"device": "cpu"},
            "agent": {"history": history},
            "rollout": {"slots": 4, "max_turn_tokens": 8, "max_episode_tokens": 512},
            "evaluation": {"splits": ["valid_seen"], "episodes": 6, "temperature": temperature},
        }
    )


def episode(*turns: tuple[list[int], list[int]]) -> Episode:
    made = [
        Turn(observation="", prompt_ids=read, action_ids=wrote, logprobs=[0.0] * len(wrote), entropies=[0.0])
        for read, wrote in turns
    ]
    return Episode(task_id="t", task_index=0, task_type="k", split="s", group=0, turns=made)


@pytest.mark.parametrize("autocast", [False, True])
def test_passes_have_the_precision_of_a_rollout(policy: Policy, autocast: bool) -> None:
    settings = recipe().replaced({"optimizer.autocast": autocast})
    seen = episode(([1, 2], [3, 4, 5]))
    with torch.no_grad(), policy.autocast(autocast):
        _, entropies = score_tokens(
            policy, torch.tensor([[1, 2, 3, 4, 5]]), torch.zeros(3, dtype=torch.long), torch.tensor([2, 3, 4])
        )
    [step] = step_gradients(policy, seen, settings)
    assert step_entropies(policy, [seen], settings) == pytest.approx([float(entropies.mean())], abs=1e-6)
    assert step.entropy == pytest.approx(float(entropies.mean()), abs=1e-6)


def with_uniform_logits(policy: Policy) -> Policy:
    """The policy with an output layer of zeros: every next token has probability 1 / V."""
    torch.nn.init.zeros_(policy.model.get_output_embeddings().weight)
    return policy


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_uniform_policy_has_the_values_of_the_formula(policy: Policy, temperature: float) -> None:
    size = policy.model.config.vocab_size
    [step] = step_gradients(with_uniform_logits(policy), episode(([1, 2], [3, 4, 5])), recipe(temperature=temperature))
    assert step.entropy == pytest.approx(math.log(size), rel=1e-5)
    assert step.expected == pytest.approx((1 - 1 / size) / temperature**2, rel=1e-5)  # H2 = log V
    assert step.logits == pytest.approx((1 - 1 / size) / temperature**2, rel=1e-5)  # 1 - 2 / V + V / V^2


@pytest.mark.parametrize("history", ["merged", "per_turn"])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_a_step_has_the_gradient_of_its_mean_log_probability(policy: Policy, history: str, temperature: float) -> None:
    steps = step_gradients(policy, episode(([1, 2], [3, 4]), ([5, 6, 7], [8])), recipe(history, temperature))
    row = [1, 2, 3, 4, 5, 6, 7, 8] if history == "merged" else [5, 6, 7, 8]
    end = torch.tensor([len(row) - 1])
    logprob, entropy = score_tokens(policy, torch.tensor([row]), torch.tensor([0]), end, temperature)
    policy.model.zero_grad()
    logprob.mean().backward()
    squares = [p.grad.square().sum() for p in policy.parameters if p.grad is not None]
    assert len(steps) == 2
    assert steps[1].parameters == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-4)
    assert steps[1].entropy == pytest.approx(float(entropy.detach()), rel=1e-5)


def test_the_expected_square_is_the_mean_over_all_tokens_that_could_be_sampled(policy: Policy) -> None:
    read = [1, 2, 3]
    size = policy.model.config.vocab_size
    steps = [step_gradients(policy, episode((read, [token])), recipe())[0] for token in range(size)]
    logprobs, _ = score_tokens(
        policy,
        torch.tensor([[*read, token] for token in range(size)]),
        torch.arange(size),
        torch.full((size,), len(read)),
    )
    mean = sum(float(p) * step.logits for p, step in zip(logprobs.exp().detach(), steps, strict=True))
    assert mean == pytest.approx(steps[0].expected, rel=1e-4)


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_steps_are_scored_again_in_their_order(policy: Policy, history: str) -> None:
    episodes = [episode(([1, 2], [3, 4]), ([5, 6, 7], [8])), episode(([1], [9, 9, 9]))]
    again = step_entropies(policy, episodes, recipe(history))
    alone = [step.entropy for e in episodes for step in step_gradients(policy, e, recipe(history))]
    assert again == pytest.approx(alone, rel=1e-4)


@pytest.fixture
def run(policy: Policy, tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe()))
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save("start", policy, None, {})
    return folder


def no_progress(name: str, total: int) -> Callable[[int], None]:
    return lambda done: None


def test_a_policy_that_did_not_change_keeps_its_entropies(run: RunFolder, policy: Policy) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", policy, None, {"iteration": 2})
    measured = measure_entropy(run.path, no_progress, episodes=4)
    assert measured.after == pytest.approx(measured.before, abs=1e-4)
    assert [step.entropy for step in measured.gradients] == pytest.approx(measured.before, abs=1e-4)
    assert (measured.checkpoint, measured.split) == ("iter-000002", "valid_seen")


@pytest.mark.parametrize(("asked", "most", "played"), [(9, 100, 9), (9, 4, 4)])
def test_as_many_tasks_are_played_as_asked_for_if_the_split_has_them(
    run: RunFolder, policy: Policy, monkeypatch: pytest.MonkeyPatch, asked: int, most: int, played: int
) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", policy, None, {"iteration": 2})
    assert run.recipe_values()["evaluation"]["episodes"] == 6
    monkeypatch.setattr("empg.environments.panels.panel_order", lambda count: list(range(min(count, most))))
    totals = []

    def stage(name: str, total: int) -> Callable[[int], None]:
        totals.append(total)
        return lambda done: None

    measured = measure_entropy(run.path, stage, episodes=asked)
    assert measured.tasks == played
    assert totals == [played] * 3
    assert len(measured.before) > 6  # more steps than tasks of the recipe's panel


def test_the_command_writes_every_value(run: RunFolder, policy: Policy) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", with_uniform_logits(policy), None, {"iteration": 2})
    figures = run.path / "figures"
    said = CliRunner().invoke(app, ["entropy", str(run.path), "--episodes", "3", "--figures", str(figures)])
    assert said.exit_code == 0, said.output
    values: dict[str, Any] = json.loads((run.path / "entropy.json").read_text())
    assert values["after"] == pytest.approx(
        [math.log(policy.model.config.vocab_size)] * len(values["before"]), rel=1e-4
    )
    assert values["temperature"] == 1.0
    assert "(1 - exp(-H2)) / T^2" in said.output
    assert "change, nats" in said.output
    assert sorted(file.name for file in figures.iterdir()) == ["coupling.svg", "entropy-change.svg"]


def test_a_full_disk_is_found_before_anything_is_measured(run: RunFolder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(RunFolderError, match=r"cannot write .*entropy\.json"):
            require_writable(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    require_writable(run)
    assert sorted(file.name for file in run.path.iterdir()) == ["checkpoints", "metrics.jsonl", "recipe.yaml"]


def test_what_was_measured_is_printed_even_if_it_cannot_be_written(run: RunFolder, policy: Policy) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", policy, None, {"iteration": 2})
    run.entropy.mkdir()
    said = CliRunner().invoke(app, ["entropy", str(run.path), "--episodes", "1"])
    assert "change, nats" in said.output
    assert said.exit_code == 1
    assert said.output.splitlines()[-1].startswith(f"empg: cannot write {run.entropy}: ")


def test_figures_that_cannot_be_drawn_are_found_before_anything_is_measured(run: RunFolder, policy: Policy) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", policy, None, {"iteration": 2})
    said = CliRunner().invoke(app, ["entropy", str(run.path), "--figures", str(run.recipe_path)])
    assert (said.exit_code, said.output.splitlines()[-1].split(": ")[1]) == (
        1, f"cannot write {run.recipe_path}/coupling.svg"
    )  # fmt: skip
    assert not run.entropy.exists()


def test_a_recipe_without_evaluation_splits_needs_a_split(run: RunFolder, policy: Policy) -> None:
    Checkpoints(run.checkpoints).save("iter-000002", policy, None, {"iteration": 2})
    values = run.recipe_values()
    values["evaluation"]["splits"] = []
    run.replace_recipe(json.dumps(values))
    for measure in (lambda: measure_entropy(run.path, no_progress), lambda: evaluate_run(run.path)):
        with pytest.raises(UserError, match=r"evaluation\.splits of its recipe is empty.*Choose one with --split"):
            measure()


def test_a_run_without_a_trained_policy_is_refused(run: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="does not contain a trained policy yet"):
        measure_entropy(run.path, no_progress)


def test_the_tables_show_the_means_of_each_tenth() -> None:
    steps = [StepGradient(entropy=h, expected=h / 2, logits=h / 4, parameters=10 * h) for h in (0.4, 0.2)]
    measured = EntropyMeasurements(
        checkpoint="iter-000009", split="test", tasks=2, temperature=0.5, gradients=steps, before=[0.5, 0.3],
        after=[0.1, 0.4],
    )  # fmt: skip
    lines = [line.split() for line in entropy_lines(measured)]
    assert next(entropy_lines(measured)).startswith("gradients of 2 steps in 2 tasks of test, iter-000009, temp")
    assert "temperature T = 0.5" in next(entropy_lines(measured))
    assert lines[2:4] == [["1", "0.200", "0.100", "0.050", "2.00"], ["2", "0.400", "0.200", "0.100", "4.00"]]
    assert lines[6:8] == [["1", "0.300", "0.400", "+0.100"], ["2", "0.500", "0.100", "-0.400"]]
