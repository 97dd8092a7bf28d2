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

from empg.footprint import Footprint, Shape, checkpoint_bytes, footprint, model_shape
from empg.policy.model import CONVERT, resolve_device, weight_files
from empg.recipe import Recipe
from empg.rollout.worlds import make_environment

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fail` stops the run, `warn` may; the remedy says what to do about either."""

    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def check(recipe: Recipe, run: Path | None = None) -> list[Finding]:
    """Look at everything a run needs: packages, worlds, device, model, memory, disk, cores.

    Args:
        recipe: the run.
        run: the folder it would be written to; None takes the disk of the present folder.
    """
    findings = [*_packages(recipe), *_worlds(recipe)]
    device, finding = _device(recipe)
    findings.append(finding)
    model = _model(recipe)
    findings.append(model)
    try:
        shape = model_shape(recipe)
    except (FileNotFoundError, ValueError):
        if model.level != "fail":
            findings.append(Finding(
                "warn", "memory: unknown without the model's configuration",
                f"hf download {recipe.policy.model} config.json, and ask again",
            ))
    else:
        findings += _lengths(recipe, shape)
        if device is not None:
            findings.append(_memory(recipe, shape, device))
        findings.append(_disk(recipe, shape, run or Path()))
    findings.append(_cores(recipe))
    findings.append(_work(recipe))
    return findings


def _packages(recipe: Recipe) -> Iterator[Finding]:
    if recipe.policy.lora is not None:
        if importlib.util.find_spec("peft") is None:
            yield Finding("fail", "policy.lora needs the package peft", "pip install 'empg[lora]'")
        else:
            yield Finding("ok", "peft is installed")


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
            "warn", "policy.model=tiny without a warm start begins with random weights, and meets no reward",
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


def _lengths(recipe: Recipe, shape: Shape) -> Iterator[Finding]:
    rollout = recipe.rollout
    if shape.max_positions is not None and rollout.max_episode_tokens > shape.max_positions:
        yield Finding(
            "fail", f"rollout.max_episode_tokens={rollout.max_episode_tokens}: the model reads {shape.max_positions}",
            f"rollout.max_episode_tokens={shape.max_positions}",
        )
    if rollout.max_turn_tokens >= rollout.max_episode_tokens:
        yield Finding(
            "fail", f"rollout.max_turn_tokens={rollout.max_turn_tokens} leaves no room for a prompt",
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
    return Finding("ok", text)


def _work(recipe: Recipe) -> Finding:
    rollout = recipe.rollout
    episodes = rollout.groups * rollout.group_size
    tokens = episodes * rollout.max_episode_tokens
    return Finding(
        "ok", f"work: {recipe.iterations} iterations of {episodes} episodes, at most {tokens / 1e3:,.0f} k tokens each"
    )


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
