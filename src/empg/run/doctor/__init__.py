"""Find problems that would stop a run, before any work starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from empg.errors import MissingExtraError, UserError
from empg.learner.process_reward import check_process_reward
from empg.recipe import Recipe
from empg.run.doctor.environments import check_environments
from empg.run.doctor.finding import Finding, one_line
from empg.run.doctor.machine import check_cache, check_cores, check_device, check_disk, check_memory
from empg.run.doctor.model import check_conversation, check_lengths, check_model
from empg.run.footprint import model_shape
from empg.run.metric_loggers import require_packages

__all__ = ["Finding", "check", "check_inputs"]


def check(recipe: Recipe, run: Path | None = None) -> list[Finding]:
    """Check everything that a run needs: packages, environments, device, model, memory, disk, cores.

    Args:
        recipe: the run.
        run: the run folder; None checks the disk of the current folder.
    """
    run = run or Path()
    findings = check_inputs(recipe, run)
    device, finding = check_device(recipe)
    findings.append(finding)
    model = check_model(recipe)
    findings.append(model)
    if model.level == "ok" and recipe.policy.model != "tiny":
        findings += check_conversation(recipe)
    try:
        shape = model_shape(recipe)
    except FileNotFoundError:
        if model.level != "fail":
            findings.append(
                Finding(
                    "warn",
                    "memory: unknown, because the model's configuration is not on this machine",
                    f"run: hf download {recipe.policy.model} config.json",
                )
            )
    except UserError as error:
        if model.level != "fail":
            findings.append(Finding("fail", one_line(error), "fix policy.lora.target_modules, or remove the key"))
    else:
        if device is not None:
            findings.append(check_memory(recipe, shape, device))
        findings.append(check_disk(recipe, shape, run))
    findings.append(check_cores(recipe))
    findings.append(_work(recipe))
    return findings


def check_inputs(recipe: Recipe, run: Path) -> list[Finding]:
    """Check what a run needs with every engine: packages, process reward, cache, environments, splits and limits."""
    return [*_packages(recipe), *check_cache(recipe), *check_environments(recipe, run), *check_lengths(recipe)]


def _packages(recipe: Recipe) -> Iterator[Finding]:
    if recipe.policy.lora is not None:
        if importlib.util.find_spec("peft") is None:
            yield Finding("fail", "policy.lora needs the package peft", "pip install 'empg[lora]'")
        else:
            yield Finding("ok", "peft is installed")
    try:
        require_packages(recipe)
    except MissingExtraError as error:
        text, _, remedy = str(error).rpartition(": ")
        yield Finding("fail", text, remedy)
    if (chosen := recipe.credit.step_reward) is not None:
        try:
            check_process_reward(chosen)
        except (ValueError, ModuleNotFoundError) as error:
            yield Finding("fail", one_line(error), "fix credit.process_reward, or remove the key")
        else:
            yield Finding("ok", f"process rewards: {chosen.name}")


def _work(recipe: Recipe) -> Finding:
    rollout = recipe.rollout
    episodes = rollout.groups * rollout.group_size
    text = f"work: {recipe.iterations} iterations of {episodes} episodes, at most "
    if recipe.agent.history == "per_turn":  # the limit is per turn, including its prompt
        return Finding("ok", f"{text}{rollout.max_episode_tokens:,} tokens per turn")
    return Finding("ok", f"{text}{episodes * rollout.max_episode_tokens / 1e3:,.0f} k tokens each")
