"""Checks of this machine: its device, memory, disk and cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from empg.errors import UserError
from empg.learner.checkpoint import Checkpoints
from empg.policy.device import claim_device, resolve_device
from empg.recipe import Recipe
from empg.record.runfolder import RunFolder
from empg.run.doctor.finding import Finding, one_line, size
from empg.run.footprint import Footprint, Shape, checkpoint_bytes, footprint
from empg.system.cache import cache_folder


def check_device(recipe: Recipe) -> tuple[torch.device | None, Finding]:
    """Return the device of the first worker; None if torch cannot compute on it."""
    name = recipe.policy.device
    try:
        device = resolve_device(name)
    except UserError as error:
        return None, Finding("fail", one_line(error), "set it to auto or cpu")
    try:
        claim_device(name, 0, recipe.workers)
    except UserError as error:
        return None, Finding("fail", one_line(error), "set workers to the number of CUDA devices")
    each = ", one per worker" if device.type != "cpu" and recipe.workers > 1 else ""
    return device, Finding("ok", f"device: {device}{each}")


def check_memory(recipe: Recipe, shape: Shape, device: torch.device) -> Finding:
    """Compare the footprint of all workers with the memory of the machine, or of their devices."""
    parts = footprint(shape, recipe, on_cpu=device.type == "cpu")
    count, each = recipe.workers, ""
    if device.type == "cuda":  # each worker has its own; the one with the least free memory decides
        devices = [device] if count == 1 else [torch.device("cuda", rank) for rank in range(count)]
        available, total = min(torch.cuda.mem_get_info(one) for one in devices)
        count, each = 1, " per device" if count > 1 else ""
    else:
        available, total = machine_memory()
    need = parts.total * count
    workers = f"{count} workers of " if count > 1 else ""
    text = (
        f"memory: about {size(need)}{each} ({workers}{size(parts.total)}; {_parts(parts)}) for "
        f"{shape.parameters / 1e6:,.1f} M parameters; {size(available)} free of {size(total)}"
    )
    if need <= available:
        return Finding("ok", text)
    return Finding("fail" if need > total else "warn", text, _less_memory(parts, recipe))


def _parts(parts: Footprint) -> str:
    stays = parts.weights + parts.gradients + parts.optimizer
    return f"weights and optimizer {size(stays)}, rollout {size(parts.rollout)}, update {size(parts.update)}"


def _less_memory(parts: Footprint, recipe: Recipe) -> str:
    stays = parts.weights + parts.gradients + parts.optimizer
    sizes = {
        stays: "use a smaller model, policy.lora, or policy.dtype=bfloat16",
        parts.rollout: f"lower rollout.slots ({recipe.rollout.slots})",
        parts.update: f"lower optimizer.micro_batch_tokens ({recipe.optimizer.micro_batch_tokens})"
        + ("" if recipe.optimizer.gradient_checkpointing else ", or set optimizer.gradient_checkpointing=true"),
        parts.process: f"lower workers ({recipe.workers})",
    }
    return sizes[max(sizes)]


def check_disk(recipe: Recipe, shape: Shape, run: Path) -> Finding:
    """Compare the checkpoints with the free space at the run folder.

    If it has a run, this is to be resumed or overwritten. The new checkpoints then take the place of its own.
    """
    need = checkpoint_bytes(shape, recipe)
    checkpoints = Checkpoints(RunFolder(run).checkpoints, recipe.keep_checkpoints)
    folder = existing(checkpoints.folder)
    if not folder.is_dir():
        return Finding("fail", f"run: {folder} is a file, not a folder", "name another --run folder")
    there, free = checkpoints.kept_bytes(), shutil.disk_usage(folder).free
    replaced = f", {size(there)} in those that are there" if there else ""
    text = f"disk: {size(need)} of checkpoints, {size(free)} free at {folder}{replaced}"
    free += there
    if need > free:
        return Finding(
            "fail",
            text,
            f"lower keep_checkpoints ({recipe.keep_checkpoints}), or choose a --run folder on another disk",
        )
    return Finding("warn" if 2 * need > free else "ok", text, "the disk will be nearly full" if 2 * need > free else "")


def check_cache(recipe: Recipe) -> Iterator[Finding]:
    """Find the cache of warm starts; whether it can be written does not matter."""
    if recipe.warm_start is None:
        return
    try:
        cache_folder()
    except UserError as error:
        text, _, remedy = str(error).rpartition(". ")
        yield Finding("fail", text, remedy)


def check_cores(recipe: Recipe) -> Finding:
    """Compare the busy processes with the cores."""
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    busy = recipe.workers * (1 + recipe.environment.workers)
    text = f"cores: {cores}, for {busy} busy {'process' if busy == 1 else 'processes'}"
    if busy > cores:
        return Finding("warn", text, f"set workers={max(1, cores // (1 + recipe.environment.workers))}")
    slow = recipe.environment.chosen.slow_steps
    if slow and not recipe.environment.workers:
        share = cores // recipe.workers
        return Finding(
            "warn",
            f"{text}; {slow}",
            f"set environment.workers={max(1, share - 1)}, for one process per core",
        )
    return Finding("ok", text)


def existing(folder: Path) -> Path:
    """Return the nearest folder that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def machine_memory() -> tuple[int, int]:
    """Return the bytes (available, total) of this machine, or of the container if its limit is lower."""
    memory = psutil.virtual_memory()
    available, total = int(memory.available), int(memory.total)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # not a container, or one without a limit ("max")
        return available, total
    return min(available, max(0, limit - used)), min(total, limit)
