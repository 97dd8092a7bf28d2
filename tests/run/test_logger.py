"""The logger: a statistic of the loss is named once and arrives everywhere under that name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import empg.learner.update
from empg.credit import LossStats, policy_loss
from empg.credit.losses import MAX
from empg.learner.assign import assign_credit
from empg.learner.update import Update, make_optimizer
from empg.policy.model import Policy
from empg.recipe import dump_recipe
from empg.record.runfolder import RunFolder
from empg.report.page import render_page
from empg.run.logger import PhaseTimes, RunLogger
from empg.system.workers import Workers
from tests.learner.plays import recipe, two_groups
from tests.record.made_runs import eval_record


@dataclass(frozen=True, eq=False, kw_only=True)
class MoreStats(LossStats):
    """Two further statistics: a mean over tokens, and a maximum."""

    positive: Tensor
    largest_advantage: Tensor = field(metadata=MAX)


def test_a_further_statistic_of_the_loss_arrives_in_all_outputs_under_its_name(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_with_more(
        logprobs: Tensor, old: Tensor, advantages: Tensor, *rest: Any, **terms: Any
    ) -> tuple[Tensor, LossStats]:
        loss, stats = policy_loss(logprobs, old, advantages, *rest, **terms)
        more = {"positive": (advantages > 0).float().sum(), "largest_advantage": advantages.max()}
        return loss, MoreStats(**vars(stats), **more)

    monkeypatch.setattr(empg.learner.update, "policy_loss", loss_with_more)
    wanted, workers = recipe(optimizer={"minibatches": 2, "lr": 1e-6}), Workers()
    folder = RunFolder.create(tmp_path / "run", dump_recipe(wanted))
    episodes = two_groups()
    assigned = assign_credit(episodes, wanted, workers)
    stats = Update(policy, make_optimizer(policy, wanted.optimizer), wanted, workers, None)(assigned, 0)
    with RunLogger(folder, wanted, workers) as logger:
        logger.begin("")
        logger.iteration(1, episodes, assigned, stats, PhaseTimes(rollout=1.0, credit=1.0, update=1.0))

    share = (assigned.token_advantages > 0).float().mean().item()
    largest = assigned.advantages.max().item()
    assert 0 < share < 1
    _, record = folder.read_metrics()
    assert record["policy/positive"] == pytest.approx(share)
    assert record["policy/largest_advantage"] == pytest.approx(largest)
    board = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [event.value for event in board.Scalars("policy/positive")] == [pytest.approx(share)]
    page = render_page(folder)
    for name in ("policy/positive", "policy/largest_advantage", "policy/entropy"):
        assert f"<h3>{name}</h3>" in page or f"<h3>{name} <span" in page  # the unit follows


def test_each_field_of_the_statistics_but_the_count_of_tokens_is_a_metric() -> None:
    nothing = torch.zeros(0)
    _, stats = policy_loss(nothing, nothing, nothing, nothing, empg.credit.LossConfig())
    assert list(stats.metrics()) == [name for name in vars(stats) if name != "tokens"]


def test_the_loggers_also_get_the_numbers_inside_an_evaluation(tmp_path: Path) -> None:
    wanted = recipe(loggers=["tensorboard"])
    folder = RunFolder.create(tmp_path / "run", dump_recipe(wanted))
    kind = {"n": 4, "successes": 1, "success": 0.25, "low": 0.0, "high": 1.0}
    with RunLogger(folder, wanted, Workers()) as logger:
        logger.begin("")
        record: Any = eval_record(0, split="s", metrics={"em": 0.5}, by_type={"a/b": kind})
        logger._write(record)
    read = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [event.value for event in read.Scalars("eval/s/sampled/metrics/em")] == [0.5]
    assert [event.value for event in read.Scalars("eval/s/sampled/by_type/a/b/success")] == [0.25]


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path: Path) -> None:
    """What was written after the checkpoint is replaced, even if the process was killed without closing the file."""
    wanted, workers = recipe(), Workers()
    folder = RunFolder.create(tmp_path / "run", dump_recipe(wanted))

    def evaluated(iteration: int, success: float) -> Any:
        return eval_record(iteration, split="s", decoding="greedy", success=success)

    killed = RunLogger(folder, wanted, workers).__enter__()
    killed.begin("")
    for iteration in (0, 1, 2, 3):
        killed._write(evaluated(iteration, 0.25))
    with RunLogger(folder, wanted, workers, resumed_at=1) as logger:
        for iteration in (2, 3, 4):
            logger._write(evaluated(iteration, 0.5))
    events = EventAccumulator(str(folder.tensorboard)).Reload().Scalars("eval/s/greedy/success")
    assert [(event.step, event.value) for event in events] == [(0, 0.25), (1, 0.25), (2, 0.5), (3, 0.5), (4, 0.5)]
    with RunLogger(folder, wanted, workers, resumed_at=-1):  # from its start
        pass
    assert EventAccumulator(str(folder.tensorboard)).Reload().Scalars("eval/s/greedy/success") == []
