"""A synthetic but consistent run: the credit columns satisfy the equations of the method."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from empg.record.runfolder import RunFolder
from empg.record.statistics import wilson_interval

TASK_TYPES = ("clean", "cool", "examine", "heat", "pick", "pick_two")
RECIPE = """\
name: household
seed: {seed}
iterations: {iterations}
credit:
  advantage: grpo
  modulation:
    name: empg
    zeta: 0.1
"""
PANEL = 100


def write_run(
    path: Path, *, seed: int = 0, iterations: int = 40, every: int = 10, keep_episodes: tuple[int, ...] = (1, 20, 40)
) -> RunFolder:
    """A whole run: warm start, `iterations` updates, evaluations of two splits before, every `every`, and after."""
    draw = np.random.default_rng([seed, 1])
    run = RunFolder.create(path, RECIPE.format(seed=seed, iterations=iterations))
    run.append_metrics(
        {
            "kind": "run",
            "version": "0.1.0",
            "seed": seed,
            "python": "3.11.2",
            "started": "2026-01-05T09:30:00+00:00",
            "command": f"empg train recipes/demo.yaml seed={seed}",
        }
    )
    for step in range(0, 200, 4):
        run.append_metrics(
            {
                "kind": "warm_start",
                "step": step,
                "loss": float(3.2 * np.exp(-step / 40) + 0.35 + draw.normal(0, 0.02)),
                "token_accuracy": float(0.93 - 0.7 * np.exp(-step / 45)),
                "lr": 2e-3,
                "time": 0.2 * step,
            }
        )
    write_evaluations(run, 0, 0.0, draw)
    for iteration in range(1, iterations + 1):
        progress = iteration / iterations
        run.append_metrics(train_record(iteration, progress, draw))
        if iteration in keep_episodes:
            run.write_episodes(iteration, episode_columns(iteration, progress, draw))
        if iteration % every == 0 or iteration == iterations:
            write_evaluations(run, iteration, progress, draw)
    return run


def eval_record(iteration: int, **changes: Any) -> dict[str, Any]:
    """The record of an evaluation with the fields that its readers need, one of two tasks solved."""
    low, high = wilson_interval(1, 2)
    rate = {"n": 2, "successes": 1, "success": 0.5, "low": low, "high": high}
    place = {"split": "valid_seen", "decoding": "sampled", "panel": "toy-2", "panel_sha256": "0" * 64}
    return {"kind": "eval", "iteration": iteration, **place, **rate, **changes}


def learned(progress: float) -> float:
    """The chance of success after a share of the training: from 0.31 to 0.76, quickly first."""
    return float(0.31 + 0.45 * (1 - np.exp(-3 * progress)) / (1 - np.exp(-3)))


def train_record(iteration: int, progress: float, draw: np.random.Generator) -> dict[str, Any]:
    success = float(draw.binomial(128, learned(progress)) / 128)
    middle = float((0.62 - 0.28 * progress) * np.exp(draw.normal(0, 0.04)))
    limit = max(0.0, 0.9 * (1 - success))
    spread = 0.9 + 0.1 * draw.random()
    rollout, score, update = (float(v * np.exp(draw.normal(0, 0.05))) for v in (6.2 - 2 * progress, 0.3, 4.1))
    alarms = ["valid actions fall: 84%, 96% at the start"] if iteration in (17, 18) else []
    if iteration == 18:
        alarms.append("3 steps dropped: non-finite entropy or log-probability")
    return {
        "kind": "train",
        "iteration": iteration,
        "rollout/success": success,
        "rollout/reward": success,
        "rollout/score": success,
        "rollout/episodes": 128,
        "rollout/turns": 23.5 - 9 * progress + float(draw.normal(0, 0.4)),
        "rollout/turn_tokens": 17.5 - 2 * progress + float(draw.normal(0, 0.2)),
        "rollout/episode_tokens": 830 - 240 * progress + float(draw.normal(0, 12)),
        "rollout/valid_actions": 0.97 + 0.02 * progress,
        "rollout/end/won": success,
        "rollout/end/step_limit": limit,
        "rollout/end/token_limit": 1 - success - limit,
        "rollout/end/lost": 0.0,
        "rollout/end/malformed": 0.0,
        "rollout/end/env_error": 0.0,
        "entropy/step_mean": middle * 1.1,
        "entropy/step_min": middle * 0.04,
        "entropy/step_p05": middle * 0.2,
        "entropy/step_p50": middle,
        "entropy/step_p95": middle * 2.3,
        "entropy/step_max": middle * 3.6,
        "credit/scale_min": 1 - 0.5 * spread,
        "credit/scale_max": 1 + 0.32 * spread,
        "credit/scale_std": 0.14 * spread,
        "credit/clarity_mean": 0.72,
        "credit/zero_variance_groups": float(0.12 + 0.25 * progress),
        "credit/advantage_abs_mean": 0.71 - 0.2 * progress,
        "policy/loss": float(draw.normal(0, 0.02)),
        "policy/kl_old": float(0.003 * np.exp(draw.normal(0, 0.4))),
        "policy/kl_reference": float(0.09 * progress + 0.004 * draw.random()),
        "policy/clip_low": float(0.012 * draw.random()),
        "policy/clip_high": float(0.018 * draw.random()),
        "policy/grad_norm": float(0.8 * np.exp(draw.normal(0, 0.25))),
        "policy/lr": 1e-4 * (1 - 0.9 * progress),
        "policy/mismatch": 2e-6,
        "guard/dropped_steps": 3 if iteration == 18 else 0,
        "alarms": alarms,
        "time/rollout": rollout,
        "time/credit": score,
        "time/update": update,
        "time/total": rollout + score + update,
        "tokens/sampled": (128 * 300),
        "tokens/trained": (128 * 290),
    }


def write_evaluations(run: RunFolder, iteration: int, progress: float, draw: np.random.Generator) -> None:
    for split, harder in (("valid_seen", 0.0), ("valid_unseen", 0.07)):
        ease = np.random.default_rng([len(split), 7]).normal(0, 0.18, PANEL)
        kinds = [TASK_TYPES[i % len(TASK_TYPES)] for i in range(PANEL)]
        slope = np.array([0.06 * (TASK_TYPES.index(kind) - 2.5) for kind in kinds])
        wins = draw.random(PANEL) < np.clip(learned(progress) - harder + ease - slope, 0.01, 0.99)
        rows: list[dict[str, Any]] = [
            {
                "task_id": f"{split}/{kind}/{i:04d}",
                "task_index": i,
                "task_type": kind,
                "success": bool(win),
                "score": float(win),
                "turns": (12 + 13 * (not win)),
                "action_tokens": 200,
                "end": "won" if win else "step_limit",
            }
            for i, (kind, win) in enumerate(zip(kinds, wins, strict=True))
        ]
        digest = hashlib.sha256("\n".join(r["task_id"] for r in rows).encode()).hexdigest()
        record = {
            "kind": "eval",
            "iteration": iteration,
            "split": split,
            "decoding": "sampled",
            "temperature": 1.0,
            "panel": f"alfworld-{split}",
            "panel_sha256": digest,
            **rate(rows),
            "score": float(wins.mean()),
            "turns": 18.0,
            "time": 5.0,
            "by_type": {kind: rate([r for r in rows if r["task_type"] == kind]) for kind in TASK_TYPES},
        }
        run.write_evaluation(record, rows)
        run.append_metrics(record)


def rate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wins = sum(r["success"] for r in rows)
    low, high = wilson_interval(wins, len(rows))
    return {"n": len(rows), "successes": wins, "success": wins / len(rows), "low": low, "high": high}


PLACES = ("countertop 1", "sinkbasin 1", "cabinet 3", "fridge 1", "shelf 2", "drawer 4")


def episode_columns(iteration: int, progress: float, draw: np.random.Generator) -> dict[str, list[Any]]:
    """Four groups of four episodes; entropies drawn, all else by the method's equations (k = 1, zeta = 0.1)."""
    rows: list[dict[str, Any]] = []
    for episode in range(16):
        won = bool(draw.random() < learned(progress))
        turns = int(draw.integers(6, 11)) if won else 14
        for turn in range(turns):
            place = PLACES[int(draw.integers(len(PLACES)))]
            last = turn == turns - 1
            rows.append(
                {
                    "iteration": iteration,
                    "episode": episode,
                    "group": episode // 4,
                    "task_index": episode // 4,
                    "task_id": f"train/clean/{episode // 4:04d}",
                    "task_type": "clean",
                    "split": "train",
                    "task": "put a clean mug in the cabinet.",
                    "turn": turn,
                    "observation": f"You arrive at {place}. On the {place}, you see a mug 2, a plate 1, and a spoon 3."
                    if turn
                    else "You are in the middle of a room. Looking quickly around you, you see a cabinet 3, a "
                    "countertop 1, a fridge 1, a sinkbasin 1, and a shelf 2. "
                    "Your task is to: put a clean mug in cabinet.",
                    "thought": "I hold mug 2. It must be clean: find a sinkbasin."
                    if turn % 2
                    else "I need a mug first.",
                    "action": "move mug 2 to cabinet 3" if won and last else f"go to {place}",
                    "valid": bool(draw.random() < 0.97),
                    "reward": float(won and last),
                    "process_reward": 0.0,
                    "entropy": float(np.exp(draw.normal(-0.9 - 0.6 * progress, 0.7))),
                    "num_prompt_tokens": 30,
                    "num_action_tokens": int(draw.integers(12, 24)),
                    "dropped": False,
                    "success": won,
                    "score": float(won),
                    "end": "won" if won else "step_limit",
                }
            )
    add_credit(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def add_credit(rows: list[dict[str, Any]]) -> None:
    won = np.array([r["success"] for r in rows], dtype=float)
    episode, group = (np.array([r[key] for r in rows]) for key in ("episode", "group"))
    entropy = np.array([r["entropy"] for r in rows])
    outcome = np.zeros(len(rows))
    for g in np.unique(group):
        rewards = np.array([won[episode == e][0] for e in np.unique(episode[group == g])])
        outcome[group == g] = (won[group == g] - rewards.mean()) / (rewards.std() + 1e-6)
    normalised = (entropy - entropy.min()) / (entropy.max() - entropy.min())
    scale = np.exp(-normalised) / np.exp(-normalised).mean()
    follows = np.append(episode[1:] == episode[:-1], False)
    clarity = np.where(follows, np.exp(-np.append(normalised[1:], 0.0)), 0.0)
    modulated = outcome * scale + 0.1 * clarity
    columns = {
        "entropy_normalised": normalised,
        "scale": scale,
        "clarity": clarity,
        "advantage_outcome": outcome,
        "advantage_modulated": modulated,
        "advantage": modulated - modulated.mean(),
    }
    for name, values in columns.items():
        for row, value in zip(rows, values.tolist(), strict=True):
            row[name] = value


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Writes a run below the test's folder."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One whole run that the tests of this folder only read."""
    return write_run(tmp_path_factory.mktemp("runs") / "household-0")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where it, or Playwright, is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
