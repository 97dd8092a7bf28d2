"""What would stop a run, found before any work starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.learner.process_reward import load_step_rewards
from empg.policy.model import longest_context, require_length, resolve_device, weight_files
from empg.policy.source import CONVERT, load_config, load_tokenizer, require_vocabulary
from empg.recipe import Recipe
from empg.rollout.env_pool import make_environment
from empg.run.footprint import Footprint, Shape, checkpoint_bytes, footprint, model_shape

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fail` stops the run, `warn` may; the remedy says what to do about either."""

    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def check(recipe: Recipe, run: Path | None = None) -> list[Finding]:
    """Look at everything a run needs: packages, pool, device, model, memory, disk, cores.

    Args:
        recipe: the run.
        run: the folder it would be written to; None takes the disk of the present folder.
    """
    findings = [*_packages(recipe), *_worlds(recipe)]
    device, finding = _device(recipe)
    findings.append(finding)
    model = _model(recipe)
    findings.append(model)
    if model.level == "ok" and recipe.policy.model != "tiny":
        findings += _speech(recipe)
    try:
        shape = model_shape(recipe)
    except (FileNotFoundError, ValueError):
        if model.level != "fail":
            findings.append(
                Finding(
                    "warn",
                    "memory: unknown without the model's configuration",
                    f"hf download {recipe.policy.model} config.json, and ask again",
                )
            )
    else:
        if device is not None:
            findings.append(_memory(recipe, shape, device))
        findings.append(_disk(recipe, shape, run or Path()))
    findings += _lengths(recipe)
    findings.append(_cores(recipe))
    findings.append(_work(recipe))
    return findings


def _packages(recipe: Recipe) -> Iterator[Finding]:
    if recipe.policy.lora is not None:
        if importlib.util.find_spec("peft") is None:
            yield Finding("fail", "policy.lora needs the package peft", "pip install 'empg[lora]'")
        else:
            yield Finding("ok", "peft is installed")
    if recipe.credit.process_reward is not None:
        try:
            load_step_rewards(recipe.credit.process_reward)
        except ValueError as error:
            yield Finding("fail", _one_line(error), "name a function that can be imported, or leave the key out")
        else:
            yield Finding("ok", f"process rewards: {recipe.credit.process_reward}")


def _worlds(recipe: Recipe) -> Iterator[Finding]:
    """Every split is opened and its first task started: broken options, data and engines show here."""
    section = recipe.environment
    wanted = {section.train_split: 1} | dict.fromkeys(recipe.evaluation.splits, recipe.evaluation.episodes)
    for split, tasks in wanted.items():
        name = f"environment {section.id}, {split}"
        try:
            environment = make_environment(section, split)
            environment.reset(options={"task": 0})
            count = environment.num_tasks
            environment.close()
        except (ValueError, OSError, ImportError) as error:
            yield Finding("fail", f"{name}: {_one_line(error)}", "see environment.options in the recipe")
            continue
        if count < tasks:
            yield Finding(
                "warn", f"{name}: {count} tasks, evaluation.episodes asks for {tasks}", "the panel takes all there are"
            )
        else:
            yield Finding("ok", f"{name}: {count:,} tasks")


def _device(recipe: Recipe) -> tuple[torch.device | None, Finding]:
    name = recipe.policy.device
    try:
        device = resolve_device(name)
    except RuntimeError as error:
        return None, Finding("fail", f"policy.device={name}: {_one_line(error)}", "write auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        shown = f"this machine shows {torch.cuda.device_count()} CUDA devices"
        return None, Finding("fail", f"policy.device={name}: {shown}", "write auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        return None, Finding("fail", "policy.device=mps is not available here", "write auto or cpu")
    if device.type != "cpu" and recipe.workers > 1:
        return device, Finding("warn", f"device: {recipe.workers} workers share {device}", "a GPU is for workers=1")
    return device, Finding("ok", f"device: {device}")


def _model(recipe: Recipe) -> Finding:
    name = recipe.policy.model
    if name == "tiny":
        if recipe.warm_start is not None:
            return Finding("ok", "model: tiny, made and warm-started in this run")
        return Finding(
            "warn",
            "policy.model=tiny without a warm start begins with random weights, and meets no reward",
            "add a warm_start section",
        )
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except HFValidationError:
            return Finding("fail", f"policy.model={name} is neither a folder nor a Hugging Face name", "mend the name")
        except LocalEntryNotFoundError:
            return Finding("warn", f"model: {name} is not on this machine: to be downloaded", f"hf download {name}")
    try:
        model_shape(recipe)
        missing = [file.name for file in weight_files(folder) if not file.is_file()]
    except (OSError, ValueError, KeyError) as error:
        return Finding("fail", f"policy.model={name}: {_one_line(error)}", "name a causal language model")
    if missing:
        remedy = CONVERT if any(folder.glob("*.bin")) else "download it again"
        return Finding("fail", f"policy.model={name}: {missing[0]} is missing in {folder}", remedy)
    return Finding("ok", f"model: {name}")


def _speech(recipe: Recipe) -> Iterator[Finding]:
    """Whether a conversation can be written as the run will write it, and read at the length it may get."""
    name, section = recipe.policy.model, recipe.agent
    try:
        config, tokenizer = load_config(name, local=True), load_tokenizer(name, local=True)
    except (OSError, ValueError) as error:
        yield Finding("fail", _one_line(error), f"hf download {name}")
        return
    try:
        chat = ChatFormat(tokenizer, arguments=section.template_arguments, date=section.date)
        Agent.create(recipe.environment.id, section, chat).check()
    except ValueError as error:
        yield Finding("fail", f"policy.model={name}: {_one_line(error)}", "name an instruction-tuned model")
    else:
        yield Finding("ok", "chat template: a turn is read as it is written")
    try:
        require_vocabulary(tokenizer, config.get_text_config().vocab_size, name)
    except ValueError as error:
        yield Finding("fail", _one_line(error), "name the model with its own tokenizer")
    try:
        require_length(config, recipe.rollout.max_episode_tokens, name)
    except ValueError as error:
        longest = longest_context(config)
        remedy = "name another model" if longest is None else f"rollout.max_episode_tokens={longest}"
        yield Finding("fail", _one_line(error), remedy)


def _lengths(recipe: Recipe) -> Iterator[Finding]:
    rollout = recipe.rollout
    if rollout.max_turn_tokens >= rollout.max_episode_tokens:
        yield Finding(
            "fail",
            f"rollout.max_turn_tokens={rollout.max_turn_tokens} leaves no room for a prompt",
            "it must be well below rollout.max_episode_tokens",
        )


def _memory(recipe: Recipe, shape: Shape, device: torch.device) -> Finding:
    parts = footprint(shape, recipe, on_cpu=device.type == "cpu")
    need = parts.total * recipe.workers
    if device.type == "cuda":
        available, total = torch.cuda.mem_get_info(device)
    else:
        available, total = _machine_memory()
    workers = f"{recipe.workers} workers of " if recipe.workers > 1 else ""
    text = (
        f"memory: about {_size(need)} ({workers}{_size(parts.total)}; {_parts(parts)}) for "
        f"{shape.parameters / 1e6:,.1f} M parameters; {_size(available)} free of {_size(total)}"
    )
    if need <= available:
        return Finding("ok", text)
    return Finding("fail" if need > total else "warn", text, _less_memory(parts, recipe))


def _parts(parts: Footprint) -> str:
    stays = parts.weights + parts.gradients + parts.optimizer
    return f"weights and optimizer {_size(stays)}, rollout {_size(parts.rollout)}, update {_size(parts.update)}"


def _less_memory(parts: Footprint, recipe: Recipe) -> str:
    stays = parts.weights + parts.gradients + parts.optimizer
    sizes = {
        stays: "take a smaller model, policy.lora, or policy.dtype=bfloat16",
        parts.rollout: f"lower rollout.slots ({recipe.rollout.slots})",
        parts.update: f"lower optimizer.micro_batch_tokens ({recipe.optimizer.micro_batch_tokens})",
        parts.process: f"lower workers ({recipe.workers})",
    }
    return sizes[max(sizes)]


def _disk(recipe: Recipe, shape: Shape, run: Path) -> Finding:
    need = checkpoint_bytes(shape, recipe)
    folder = run.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"disk: {_size(need)} of checkpoints, {_size(free)} free at {folder}"
    if need > free:
        return Finding("fail", text, f"lower keep_checkpoints ({recipe.keep_checkpoints}) or write --run elsewhere")
    return Finding("warn" if 2 * need > free else "ok", text, "little will be left" if 2 * need > free else "")


def _cores(recipe: Recipe) -> Finding:
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    busy = recipe.workers * (1 + recipe.environment.workers)
    text = f"cores: {busy} busy processes, {cores} cores"
    if busy > cores:
        return Finding("warn", text, f"workers={max(1, cores // (1 + recipe.environment.workers))} would fit")
    if recipe.environment.options.get("backend") == "textworld" and not recipe.environment.workers:
        share = cores // recipe.workers
        return Finding(
            "warn",
            f"{text}; the textworld backend steps one game after the other in each",
            f"environment.workers={max(1, share - 1)}, for one process a core",
        )
    return Finding("ok", text)


def _work(recipe: Recipe) -> Finding:
    rollout = recipe.rollout
    episodes = rollout.groups * rollout.group_size
    text = f"work: {recipe.iterations} iterations of {episodes} episodes, at most "
    if recipe.agent.history == "per_turn":  # the limit is of one turn, its prompt included
        return Finding("ok", f"{text}{rollout.max_episode_tokens:,} tokens a turn")
    return Finding("ok", f"{text}{episodes * rollout.max_episode_tokens / 1e3:,.0f} k tokens each")


def _machine_memory() -> tuple[int, int]:
    """Bytes (available, total) of this machine, or of the container that this process may use."""
    memory = psutil.virtual_memory()
    available, total = int(memory.available), int(memory.total)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available, total
    return min(available, max(0, limit - used)), min(total, limit)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
