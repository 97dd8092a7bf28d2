"""Find problems that would stop a run, before any work starts."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.base import EarlyStoppingExpert, TextEnvironment
from empg.environments.preparation import Preparation
from empg.environments.registry import preparation
from empg.errors import MissingExtraError, UserError, described
from empg.learner.process_reward import check_process_reward
from empg.policy.model import claim_device, longest_context, require_length, resolve_device, weight_files
from empg.policy.source import CONVERT, load_config, load_tokenizer, require_vocabulary
from empg.recipe import Recipe
from empg.rollout.demonstrations import EARLY_STOP_UNKNOWN
from empg.run.build import CORPUS_EPISODES
from empg.run.footprint import Footprint, Shape, checkpoint_bytes, footprint, model_shape
from empg.run.metric_loggers import require_packages

GIB = 1 << 30
LONG = 60.0  # seconds of indexing, beyond which the doctor only estimates it
SEARCH_LIMIT = 1.0  # seconds to look for tasks without an expert


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `fail` stops the run, `warn` may stop it; the remedy says what to do."""

    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def check(recipe: Recipe, run: Path | None = None) -> list[Finding]:
    """Check everything that a run needs: packages, environments, device, model, memory, disk, cores.

    Args:
        recipe: the run.
        run: the run folder; None checks the disk of the current folder.
    """
    run = run or Path()
    findings = check_inputs(recipe, run)
    device, finding = _device(recipe)
    findings.append(finding)
    model = _model(recipe)
    findings.append(model)
    if model.level == "ok" and recipe.policy.model != "tiny":
        findings += _conversation(recipe)
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
            findings.append(Finding("fail", _one_line(error), "fix policy.lora.target_modules, or remove the key"))
    else:
        if device is not None:
            findings.append(_memory(recipe, shape, device))
        findings.append(_disk(recipe, shape, run))
    findings.append(_cores(recipe))
    findings.append(_work(recipe))
    return findings


def check_inputs(recipe: Recipe, run: Path) -> list[Finding]:
    """Check what a run needs with every engine: packages, process reward, environments, splits and limits."""
    return [*_packages(recipe), *_environments(recipe, run), *_lengths(recipe)]


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
            yield Finding("fail", _one_line(error), "fix credit.process_reward, or remove the key")
        else:
            yield Finding("ok", f"process rewards: {chosen.name}")


def _environments(recipe: Recipe, run: Path) -> Iterator[Finding]:
    """Open every split and start its first task, to find wrong options, data, engines and experts."""
    section = recipe.environment
    try:
        needed = preparation(section.spec, section.chosen)
    except Exception as error:
        yield Finding("fail", f"environment {section.id}: {_said(error)}", "fix environment.options in the recipe")
        return
    if needed is not None:
        yield _preparation(section.id, needed, run)
        if needed.seconds > LONG:  # opening the environment would build it here
            if needed.tasks is None:
                return
            section = section.model_copy(update={"options": dict(needed.tasks)})
    wanted = {section.train_split: 1} | dict.fromkeys(recipe.evaluation.panels, recipe.evaluation.episodes)
    for split, tasks in wanted.items():
        name = f"environment {section.id}, {split}"
        try:
            with closing(section.make(split)) as environment:
                environment.reset(options={"task": 0})
                if split == section.train_split:
                    _require_expert(environment, recipe)
                count = environment.num_tasks
        except Exception as error:  # the code of an environment can raise anything
            yield Finding("fail", f"{name}: {_said(error)}", "fix environment.options or the split in the recipe")
            continue
        if count < tasks:
            yield Finding(
                "warn", f"{name}: {count} tasks, fewer than evaluation.episodes={tasks}", "the panel uses all of them"
            )
        else:
            yield Finding("ok", f"{name}: {count:,} tasks")


def _preparation(id_: str, needed: Preparation, run: Path) -> Finding:
    """Compare what must be built first with this machine."""
    available, total = _machine_memory()
    place = _existing(needed.folder or run)
    free = shutil.disk_usage(place).free
    disk = f"{_size(needed.disk)} of {_size(free)} free disk at {needed.folder}, " if needed.folder else ""
    text = (
        f"environment {id_}: the first use builds the {needed.what}: about {_duration(needed.seconds)}, {disk}"
        f"{_size(needed.memory)} of {_size(available)} free memory"
    )
    if needed.disk > free:
        return Finding("fail", text, f"free disk space at {place}, or set environment.options.cache")
    if needed.memory > total:
        return Finding("fail", text, "choose another index in environment.options, or a machine with more memory")
    if needed.memory > available:
        return Finding("warn", text, "free memory before the run")
    if needed.seconds > LONG:
        return Finding("warn", text, "the first run waits for it")
    return Finding("ok", text)


def _require_expert(environment: TextEnvironment, recipe: Recipe) -> None:
    """Make sure that every task that a run imitates has an expert, as far as `SEARCH_LIMIT` allows.

    Raises:
        UserError: one does not; the message names the task and the key that asks for it.
    """
    section = recipe.warm_start
    tiny = recipe.policy.model == "tiny"
    if section is None and not tiny:
        return
    episodes = max(section.episodes if section is not None else 0, CORPUS_EPISODES if tiny else 0)
    deadline = time.monotonic() + SEARCH_LIMIT
    imitated = min(episodes, environment.num_tasks)
    others = random.Random(0).sample(range(1, imitated), imitated - 1)  # files of one kind often follow each other
    for task in (0, *others):
        try:
            environment.reset(options={"task": task})
            expert = environment.expert()
        except UserError as error:
            where = f"task {task}: " if task else ""
            if section is not None:
                raise UserError(f"{where}{error}") from None
            asked = "policy.model=tiny takes its vocabulary from the play of an expert"
            raise UserError(f"{asked}: {where}{error}") from None
        if section is not None and section.early_stop and not isinstance(expert, EarlyStoppingExpert):
            raise UserError(EARLY_STOP_UNKNOWN)
        if time.monotonic() > deadline:
            return


def _device(recipe: Recipe) -> tuple[torch.device | None, Finding]:
    name = recipe.policy.device
    try:
        device = resolve_device(name)
    except UserError as error:
        return None, Finding("fail", _one_line(error), "set it to auto or cpu")
    try:
        claim_device(name, 0, recipe.workers)
    except UserError as error:
        return None, Finding("fail", _one_line(error), "set workers to the number of CUDA devices")
    each = ", one per worker" if device.type != "cpu" and recipe.workers > 1 else ""
    return device, Finding("ok", f"device: {device}{each}")


def _model(recipe: Recipe) -> Finding:
    name = recipe.policy.model
    if name == "tiny":
        if recipe.warm_start is not None:
            return Finding("ok", "model: tiny, created and warm-started in this run")
        return Finding(
            "warn",
            "policy.model=tiny without a warm start starts from random weights and will almost never see a reward",
            "add a warm_start section",
        )
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except HFValidationError:
            return Finding(
                "fail", f"policy.model={name} is neither a folder nor a Hugging Face name", "fix policy.model"
            )
        except LocalEntryNotFoundError:
            return Finding(
                "warn", f"model: {name} is not on this machine and will be downloaded", f"run: hf download {name}"
            )
    try:
        model_shape(recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"lora": None})}))
    except UserError as error:
        return Finding("fail", _one_line(error), "set policy.model to a causal language model")
    try:
        missing = [file.name for file in weight_files(folder) if not file.is_file()]
    except Exception as error:  # the index of several shards can be anything
        text = f"policy.model={name}: model.safetensors.index.json is damaged ({described(error)})"
        return Finding("fail", text, "download it again")
    if missing:
        remedy = CONVERT if any(folder.glob("*.bin")) else "download it again"
        return Finding("fail", f"policy.model={name}: {missing[0]} is missing in {folder}", remedy)
    return Finding("ok", f"model: {name}")


def _conversation(recipe: Recipe) -> Iterator[Finding]:
    """Check the chat template with one turn of the recipe's form, the vocabulary, and the context length."""
    name, section = recipe.policy.model, recipe.agent
    try:
        config, tokenizer = load_config(name, local=True), load_tokenizer(name, local=True)
    except (OSError, ValueError) as error:
        yield Finding("fail", _one_line(error), f"run: hf download {name}")
        return
    try:
        chat = ChatFormat(tokenizer, arguments=section.template_arguments, date=section.date)
        Agent(recipe.environment.spec.prompt, section, chat).check()
    except ValueError as error:
        yield Finding(
            "fail", f"policy.model={name}: {_one_line(error)}", "set policy.model to an instruction-tuned model"
        )
    else:
        yield Finding("ok", "chat template: supported, a written turn is read back")
    try:
        require_vocabulary(tokenizer, config.get_text_config().vocab_size, name)
    except ValueError as error:
        yield Finding("fail", _one_line(error), "use the model's own tokenizer")
    try:
        require_length(config, recipe.rollout.max_episode_tokens, name)
    except ValueError as error:
        longest = longest_context(config)
        remedy = "use another policy.model" if longest is None else f"set rollout.max_episode_tokens={longest}"
        yield Finding("fail", _one_line(error), remedy)


def _lengths(recipe: Recipe) -> Iterator[Finding]:
    rollout = recipe.rollout
    if rollout.max_turn_tokens >= rollout.max_episode_tokens:
        yield Finding(
            "fail",
            f"rollout.max_turn_tokens={rollout.max_turn_tokens} does not leave space for a prompt",
            "set it well below rollout.max_episode_tokens",
        )


def _memory(recipe: Recipe, shape: Shape, device: torch.device) -> Finding:
    parts = footprint(shape, recipe, on_cpu=device.type == "cpu")
    count, each = recipe.workers, ""
    if device.type == "cuda":  # each worker has its own; the one with the least free memory decides
        devices = [device] if count == 1 else [torch.device("cuda", rank) for rank in range(count)]
        available, total = min(torch.cuda.mem_get_info(one) for one in devices)
        count, each = 1, " per device" if count > 1 else ""
    else:
        available, total = _machine_memory()
    need = parts.total * count
    workers = f"{count} workers of " if count > 1 else ""
    text = (
        f"memory: about {_size(need)}{each} ({workers}{_size(parts.total)}; {_parts(parts)}) for "
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
        stays: "use a smaller model, policy.lora, or policy.dtype=bfloat16",
        parts.rollout: f"lower rollout.slots ({recipe.rollout.slots})",
        parts.update: f"lower optimizer.micro_batch_tokens ({recipe.optimizer.micro_batch_tokens})"
        + ("" if recipe.optimizer.gradient_checkpointing else ", or set optimizer.gradient_checkpointing=true"),
        parts.process: f"lower workers ({recipe.workers})",
    }
    return sizes[max(sizes)]


def _disk(recipe: Recipe, shape: Shape, run: Path) -> Finding:
    need = checkpoint_bytes(shape, recipe)
    folder = _existing(run)
    free = shutil.disk_usage(folder).free
    text = f"disk: {_size(need)} of checkpoints, {_size(free)} free at {folder}"
    if need > free:
        return Finding(
            "fail",
            text,
            f"lower keep_checkpoints ({recipe.keep_checkpoints}), or choose a --run folder on another disk",
        )
    return Finding("warn" if 2 * need > free else "ok", text, "the disk will be nearly full" if 2 * need > free else "")


def _existing(folder: Path) -> Path:
    """Return the nearest folder that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _cores(recipe: Recipe) -> Finding:
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1
    busy = recipe.workers * (1 + recipe.environment.workers)
    text = f"cores: {busy} busy processes, {cores} cores"
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


def _work(recipe: Recipe) -> Finding:
    rollout = recipe.rollout
    episodes = rollout.groups * rollout.group_size
    text = f"work: {recipe.iterations} iterations of {episodes} episodes, at most "
    if recipe.agent.history == "per_turn":  # the limit is per turn, including its prompt
        return Finding("ok", f"{text}{rollout.max_episode_tokens:,} tokens per turn")
    return Finding("ok", f"{text}{episodes * rollout.max_episode_tokens / 1e3:,.0f} k tokens each")


def _machine_memory() -> tuple[int, int]:
    """Return the bytes (available, total) of this machine, or of the container if its limit is lower."""
    memory = psutil.virtual_memory()
    available, total = int(memory.available), int(memory.total)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # not a container, or one without a limit ("max")
        return available, total
    return min(available, max(0, limit - used)), min(total, limit)


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5_400 else f"{seconds / 3_600:.1f} hours"


def _said(error: Exception) -> str:
    """Return the message of an error, with its class where the message alone may say little."""
    return _one_line(error) if isinstance(error, ValueError | OSError | ImportError) else described(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
