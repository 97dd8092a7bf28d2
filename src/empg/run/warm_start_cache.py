"""The policy that reinforcement learning starts from, and the cache of warm starts."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import empg
from empg.learner.warm_start import warm_start
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.rollout.demonstrations import recording_files
from empg.run.build import build_agent, build_policy
from empg.run.logger import RunLogger
from empg.run.run import Run
from empg.system.cache import cache_folder


def starting_policy(run: Run) -> Policy:
    """Return the policy that RL starts from: warm-started, loaded from the cache, or as defined by the recipe.

    The key of the cache (`$XDG_CACHE_HOME/empg`) covers everything that affects a warm start, including the code of
    this package and of the environment.
    """
    recipe, workers, logger = run.recipe, run.workers, run.logger
    if recipe.warm_start is None:
        return build_policy(recipe)
    cached = _cache_folder(recipe)
    found = workers.gather(cached.is_dir())
    if all(found):
        logger.say(f"warm start loaded from {cached}")
        return build_policy(recipe, cached)
    logger.stage("expert episodes for the tokenizer")
    policy = build_policy(recipe)
    logger.stage("warm start")
    environment = recipe.environment.make(recipe.environment.train_split)
    warm_start(policy, build_agent(recipe, policy), environment, recipe, workers, logger.warm_start)
    if workers.first:
        _keep(policy, cached, logger)
    workers.barrier()
    return policy


def _keep(policy: Policy, cached: Path, logger: RunLogger) -> None:
    partial = cached.with_name(f".{cached.name}.{os.getpid()}")
    try:
        policy.save(partial)
        shutil.rmtree(cached, ignore_errors=True)
        partial.rename(cached)
    except OSError as error:  # without the cache, a run only takes longer
        shutil.rmtree(partial, ignore_errors=True)
        logger.say(f"cannot write the warm start to {cached}: {error.strerror or error}; continuing without the cache")


def _cache_folder(recipe: Recipe) -> Path:
    shaping = recipe.model_dump(
        mode="json",
        include={
            "seed": True,
            "workers": True,
            "environment": True,
            "policy": True,
            "agent": True,
            "warm_start": True,
            "rollout": {"max_episode_tokens"},
            "optimizer": {"autocast", "micro_batch_tokens"},
        },
    )
    text = json.dumps([empg.__version__, _code(), *_brought(recipe), shaping, *_recorded(recipe)], sort_keys=True)
    return cache_folder() / f"warm-start-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _recorded(recipe: Recipe) -> list[str]:
    """Return digests of the recordings that a warm start imitates: a changed file needs a new warm start."""
    if recipe.warm_start is None or recipe.warm_start.recordings is None:
        return []
    files = recording_files(Path(recipe.warm_start.recordings))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _brought(recipe: Recipe) -> list[str]:
    """A digest of the code of another package's environment: a changed expert makes another warm start there too."""
    top = recipe.environment.spec.module.partition(".")[0]
    if top in ("", "empg"):
        return []
    found = importlib.util.find_spec(top)
    if found is None:
        return []
    if found.submodule_search_locations is None:
        return [_digest([Path(str(found.origin))], Path(str(found.origin)).parent)]
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return [_digest(folder.rglob("*.py"), folder) for folder in folders]


@functools.cache
def _code() -> str:
    """Return a digest of this package's code: a changed prompt, expert or tokenizer needs a new warm start."""
    package = Path(empg.__file__).parent
    return _digest(package.rglob("*.py"), package)


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
