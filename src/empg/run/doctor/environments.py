"""Checks of the environment: its data, its tasks, its expert, and recorded episodes."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from empg.environments.base import EarlyStoppingExpert, TextEnvironment
from empg.environments.options import concerns_split
from empg.environments.preparation import Preparation
from empg.environments.registry import preparation
from empg.errors import UserError
from empg.recipe import Recipe
from empg.rollout.demonstrations import EARLY_STOP_UNKNOWN, recorded_plays
from empg.run.build import CORPUS_EPISODES
from empg.run.doctor.finding import Finding, duration, one_line, said, size
from empg.run.doctor.machine import existing, machine_memory

LONG = 60.0  # seconds of indexing, beyond which the doctor only estimates it
SEARCH_LIMIT = 1.0  # seconds to look for tasks without an expert
_OPTIONS = "fix environment.id or environment.options"


def check_environments(recipe: Recipe, run: Path) -> Iterator[Finding]:
    """Open every split and start its first task, to find wrong options, data, engines and experts."""
    section = recipe.environment
    try:
        needed = preparation(section.spec, section.chosen)
    except Exception as error:
        yield Finding("fail", f"environment {section.id}: {said(error)}", _OPTIONS)
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
            with closing(section.make(split)) as environment, ExitStack() as held:
                environment.reset(options={"task": 0})
                if split == section.train_split:
                    imitated = environment
                    if recipe.warm_start is not None and recipe.warm_start.options:
                        imitated = held.enter_context(closing(recipe.imitated_environment.make(split)))
                    lacking = _lacking_expert(name, imitated, recipe)
                    if lacking is not None:
                        yield lacking
                        continue
                    yield from _recordings(imitated, recipe)
                count = environment.num_tasks
        except Exception as error:  # the code of an environment can raise anything
            key = "environment.train_split" if split == section.train_split else "evaluation.splits"
            about_split = f"set {key} to what this environment has"
            remedy = about_split if concerns_split(error) else f"fix environment.id, environment.options or {key}"
            yield Finding("fail", f"{name}: {said(error)}", remedy)
            continue
        if count < tasks:
            yield Finding(
                "warn", f"{name}: {count} tasks, fewer than evaluation.episodes={tasks}", "the panel uses all of them"
            )
        else:
            yield Finding("ok", f"{name}: {count:,} tasks")


def _recordings(environment: TextEnvironment, recipe: Recipe) -> Iterator[Finding]:
    """Replay the recorded episodes that the warm start imitates."""
    if recipe.warm_start is None or recipe.warm_start.recordings is None:
        return
    path = Path(recipe.warm_start.recordings)
    try:
        plays = recorded_plays(environment, path, recipe.agent.form)
    except (UserError, OSError) as error:
        yield Finding("fail", one_line(error), "fix warm_start.recordings, or remove the key")
    else:
        yield Finding("ok", f"recordings: {len(plays):,} episodes in {path}")


def _preparation(id_: str, needed: Preparation, run: Path) -> Finding:
    """Compare what must be built first with this machine."""
    available, total = machine_memory()
    place = existing(needed.folder or run)
    free = shutil.disk_usage(place).free
    disk = f"{size(needed.disk)} of {size(free)} free disk at {needed.folder}, " if needed.folder else ""
    text = (
        f"environment {id_}: the first use builds the {needed.what}: about {duration(needed.seconds)}, {disk}"
        f"{size(needed.memory)} of {size(available)} free memory"
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


def _lacking_expert(name: str, environment: TextEnvironment, recipe: Recipe) -> Finding | None:
    """Return the first task that a run imitates and that has no expert for it, as far as `SEARCH_LIMIT` allows.

    Args:
        name: the environment and the split, for the text.
        environment: the training split of the environment in which the expert is imitated.
        recipe: the recipe of the run.
    """
    section = recipe.warm_start
    tiny = recipe.policy.model == "tiny"
    if section is None and not tiny:
        return None
    asked = "" if section is not None else "policy.model=tiny takes its vocabulary from the play of an expert: "
    instead = ["leave out warm_start"] if section is not None else []
    if tiny:
        instead.append("set policy.model to a pretrained model")
    episodes = max(section.episodes if section is not None else 0, CORPUS_EPISODES if tiny else 0)
    deadline = time.monotonic() + SEARCH_LIMIT
    imitated = min(episodes, environment.num_tasks)
    others = random.Random(0).sample(range(1, imitated), imitated - 1)  # files of one kind often follow each other
    for task in (0, *others):
        remedy = _OPTIONS
        try:
            environment.reset(options={"task": task})
            remedy = " and ".join(instead)
            expert = environment.expert()
        except UserError as error:
            where = f"task {task}: " if task else ""
            return Finding("fail", f"{name}: {asked}{where}{one_line(error)}", remedy)
        if section is not None and section.early_stop and not isinstance(expert, EarlyStoppingExpert):
            return Finding("fail", f"{name}: {EARLY_STOP_UNKNOWN}", "set warm_start.early_stop=0")
        if time.monotonic() > deadline:
            break
    return None
