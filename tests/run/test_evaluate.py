"""What an evaluation reports in addition to success: failed turns and environment errors."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import empg.run.evaluate
from empg.cli import app
from empg.environments.alfworld.env import ALFWorldEnv
from empg.errors import UserError
from empg.learner.checkpoint import Checkpoints
from empg.policy.model import Policy
from empg.recipe import dump_recipe, parse_recipe
from empg.record.runfolder import START, RunFolder
from empg.rollout.types import EndReason, Episode, Turn
from empg.run import logger
from empg.run.display import Progress
from empg.run.evaluate import panel_of
from empg.run.logger import RunLogger
from empg.run.results import evaluation_lines
from empg.system.workers import Workers


def _episode(place: int, *failures: str, end: EndReason = EndReason.LOST, **more: Any) -> Episode:
    turns = [
        Turn(observation="", prompt_ids=[1], action_ids=[2], logprobs=[-1.0], entropies=[0.5], failure=failure)
        for failure in failures
    ]
    return Episode(
        task_id=f"t{place}",
        task_index=place,
        task_type="2-hop bridge",
        split="valid_id",
        group=place,
        turns=turns,
        end=end,
        **more,
    )


def test_failed_turns_and_broken_episodes_are_counted(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    played = [
        _episode(0, "the server is gone", "", "time-out"),
        _episode(1, "", ""),
        _episode(2, "", end=EndReason.ENV_ERROR),
    ]
    monkeypatch.setattr(empg.run.evaluate, "play", lambda *asked, **more: played)
    recipe = parse_recipe({"environment": {"id": "deepsearch"}, "evaluation": {"splits": ["valid_id"], "episodes": 3}})
    record, rows = empg.run.evaluate.evaluate_policy(
        recipe, policy, panel_of(recipe, "valid_id"), decoding="sampled", iteration=0, workers=Workers()
    )
    assert (record["failed_turns"], record["env_errors"], record["n"]) == (2, 1, 3)
    assert [row["failed_turns"] for row in rows] == [2, 0, 0]


def test_further_metrics_are_averaged_over_all_episodes(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    played = [
        _episode(0, "", metrics={"em": 0.0, "sub_em": 1.0}),
        _episode(1, "", metrics={"em": 1.0, "sub_em": 1.0}),
        _episode(2, end=EndReason.ENV_ERROR),
        _episode(3, "", metrics={"em": 0.0, "sub_em": 0.0}),
    ]
    monkeypatch.setattr(empg.run.evaluate, "play", lambda *asked, **more: played)
    recipe = parse_recipe({"environment": {"id": "deepsearch"}, "evaluation": {"splits": ["valid_id"], "episodes": 4}})
    record, rows = empg.run.evaluate.evaluate_policy(
        recipe, policy, panel_of(recipe, "valid_id"), decoding="sampled", iteration=0, workers=Workers()
    )
    assert record["metrics"] == {"em": 0.25, "sub_em": 0.5}
    assert rows[2]["metrics"] == {}
    lines = list(evaluation_lines([record]))
    assert [line.split() for line in lines[2:4]] == [["em", "25.0%"], ["sub_em", "50.0%"]]


@pytest.mark.parametrize(
    ("failed", "broken", "line"),
    [
        (
            2,
            1,
            "valid_id (sampled): 2 turns hit an unavailable external service; 1 episodes ended in an environment error",
        ),
        (0, 0, ""),
    ],
)
def test_the_command_reports_failed_turns_and_environment_errors(
    failed: int, broken: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"n": 4, "successes": 1, "success": 0.25, "low": 0.05, "high": 0.7}
    record: dict[str, Any] = {
        "split": "valid_id", "decoding": "sampled", "panel": "p", "panel_sha256": "0" * 64, "by_type": {}, **rates,
        "metrics": {},
        "failed_turns": failed, "env_errors": broken,
    }  # fmt: skip
    monkeypatch.setattr(empg.run.evaluate, "evaluate_run", lambda *asked: [record])
    result = CliRunner().invoke(app, ["evaluate", "runs/any"])
    assert result.exit_code == 0, result.output
    assert (line in result.stdout) if line else ("external" not in result.stdout)


def test_the_progress_of_an_evaluation_counts_the_tasks_that_the_split_has(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(
        {
            "environment": {"max_steps": 1, "options": {"rooms": "small"}},
            "policy": {"device": "cpu"},
            "rollout": {"max_turn_tokens": 2, "max_episode_tokens": 512},
            "evaluation": {"splits": ["valid_seen"], "episodes": 5},
        }
    )
    monkeypatch.setattr(ALFWorldEnv, "num_tasks", property(lambda self: 2))
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe))
    Checkpoints(folder.checkpoints).save(START, policy, None, {})
    totals: list[int] = []

    def stage(name: str, total: int) -> Callable[[int], None]:
        totals.append(total)
        return totals.append

    [record] = empg.run.evaluate.evaluate_run(folder.path, START, stage=stage)
    assert (totals[0], totals[-1], record["n"]) == (2, 2, 2)
    console = Console(file=io.StringIO())
    monkeypatch.setattr(logger, "Progress", lambda iterations, **due: Progress(iterations, console, **due))
    shown: list[object] = []
    monkeypatch.setattr(Progress, "stage", lambda self, name, total: shown.append((name, total)))
    RunLogger(folder, recipe, Workers()).evaluation_progress(panel_of(recipe, "valid_seen"), "sampled")
    assert shown == [("evaluate valid_seen (sampled)", 2)]


@pytest.mark.parametrize("temperature", [math.inf, math.nan])
def test_a_temperature_that_is_not_finite_is_an_error(temperature: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="temperature: expected a finite number, got"):
        empg.run.evaluate.evaluate_run(tmp_path, temperature=temperature)


def test_a_split_is_played_once(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", dump_recipe(parse_recipe({})))
    with pytest.raises(UserError, match=r"^splits: expected each split once, got train, train\. Remove the repeated"):
        empg.run.evaluate.evaluate_run(run.path, splits=["train", "train"])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: run.metrics_path.write_text("{oops\n"), r"metrics\.jsonl line 1 is not a JSON object"),
        (lambda run: (run.path / "evaluations").touch(), "cannot write .*/evaluations: File exists"),
        (lambda run: (run.path / ".metrics.lock").mkdir(), r"cannot create .*\.metrics\.lock: "),
    ],
)
def test_what_cannot_be_recorded_is_not_played(
    policy: Policy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[RunFolder], object],
    message: str,
) -> None:
    folder = RunFolder.create(tmp_path / "run", dump_recipe(parse_recipe({"policy": {"device": "cpu"}})))
    Checkpoints(folder.checkpoints).save(START, policy, None, {})
    break_it(folder)
    monkeypatch.setattr(empg.run.evaluate, "build_policy", lambda *recipe: pytest.fail("a policy was built"))
    with pytest.raises(UserError, match=message):
        empg.run.evaluate.evaluate_run(folder.path, START)
