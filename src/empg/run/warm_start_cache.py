"""The policy that reinforcement learning starts from, and the cache of warm starts."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path

import torch

import empg
from empg.errors import UserError, message_of
from empg.learner.checkpoint import CheckpointError, Checkpoints, require_finite
from empg.learner.warm_start import warm_start
from empg.policy.fingerprint import fingerprint
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.recipe.recorded import flat, of_the_start
from empg.record.lock import acquire
from empg.rollout.demonstrations import recording_files
from empg.run.build import build_agent, build_policy, uses_date
from empg.run.example import play_example, side_by_side
from empg.run.logger import RunLogger
from empg.run.run import Run
from empg.system.cache import cache_folder

APART = {"cli", "credit", "engines", "report", "study"}
"""Parts of this package that no warm start computes with: whoever changes a rule of credit need not repeat it."""


def starting_policy(run: Run) -> Policy:
    """Return the policy that RL starts from: warm-started, loaded from the cache, or as defined by the recipe.

    The key of the cache (`$XDG_CACHE_HOME/empg`) covers everything that affects a warm start, including the code of
    this package without its parts `APART`, that of the environment, the recordings, the files of the model
    (`fingerprint`), and what decides the last bits on a machine (`_numerics`). An entry is a checkpoint, so a damaged
    one is recognized and replaced.

    Processes that need the same warm start at the same time compute it once; the others wait for it.

    Raises:
        DivergedError: the warm start ended with weights that are not finite.
        StopRequested: worker 0 was asked to stop.
    """
    recipe, workers, logger = run.recipe, run.workers, run.logger
    if recipe.warm_start is None:
        return build_policy(recipe)
    # One name for all: a worker may find a model in the local cache that another has just put there.
    cache, name = Checkpoints(cache_folder()), workers.gather(cache_entry(recipe))[0]
    with ExitStack() as held:
        if not workers.gather(workers.first and (cache.folder / name).is_dir())[0]:
            _take_turn(held, cache.folder, name, run)
        if workers.gather(workers.first and _is_intact(cache, name, logger))[0]:
            logger.say(f"warm start loaded from {cache.folder / name}")
            return build_policy(recipe, cache.folder / name)
        return _warm_started(run, cache, name)


def _warm_started(run: Run, cache: Checkpoints, name: str) -> Policy:
    """Compute a warm start and keep it in the cache."""
    recipe, workers, logger = run.recipe, run.workers, run.logger
    logger.stage("expert episodes for the tokenizer")
    policy = build_policy(recipe)
    before = play_example(run, policy)
    logger.stage("warm start")
    with closing(recipe.imitated_environment.make(recipe.environment.train_split)) as environment:
        warm_start(policy, build_agent(recipe, policy), environment, recipe, workers, logger.warm_start)
    require_finite(policy.parameters, "after the warm start", "warm_start.lr")
    after = play_example(run, policy)
    if before is not None and after is not None:
        for line in side_by_side(before, after):
            logger.say(line)
    if workers.first:
        try:
            cache.save(name, policy, None, {})
        except CheckpointError as error:  # without the cache, a run only takes longer
            logger.say(f"{error}; continuing without the cache")
    workers.barrier()
    return policy


def _take_turn(held: ExitStack, folder: Path, name: str, run: Run) -> None:
    """Wait until no other process computes this warm start; `held` then holds its lock. So it is computed only once.

    Raises:
        StopRequested: worker 0 was asked to stop while it waited.
    """
    workers, waited = run.workers, False
    while not workers.gather(workers.first and _locked(held, folder, name, run.logger))[0]:
        if not waited:
            run.logger.stage("waiting for another run that computes the same warm start")
        waited = True
        if workers.first:
            workers.check_stop()


def _locked(held: ExitStack, folder: Path, name: str, logger: RunLogger) -> bool:
    """Try for a second to take the lock of a warm start; True also where there are no locks, and nothing is shared."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder / f".{name}.lock", wait=1.0)
    except (OSError, UserError) as error:
        logger.say(f"warm-start cache: {message_of(error)}")
        return True
    if lock is not None:
        held.callback(lock.release)
        Checkpoints(folder).remove_left(name)
    return lock is not None


def _is_intact(cache: Checkpoints, name: str, logger: RunLogger) -> bool:
    if not (cache.folder / name).is_dir():
        return False
    try:
        cache.verify(name)
    except CheckpointError as error:
        logger.say(f"warm-start cache: {error}; repeating the warm start")
        return False
    return True


def cache_entry(recipe: Recipe) -> str:
    """Return the name of the cache entry of a recipe's warm start, which contains a hash of what affects it."""
    shaping = of_the_start(flat(recipe.model_dump(mode="json")))
    if not uses_date(recipe):
        del shaping["agent.date"]
    # `fingerprint` comes after `uses_date`, which downloads a model's tokenizer.
    affecting = [empg.__version__, _code(), *_numerics(), *_brought(recipe), shaping, *_recorded(recipe)]
    text = json.dumps([*affecting, fingerprint(recipe.policy.model)], sort_keys=True)
    return f"warm-start-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _numerics() -> list[str]:
    """Return what the last bits of a result depend on beside the code: versions, instructions and threads."""
    versions = [version(package) for package in ("torch", "transformers", "tokenizers", "numpy")]
    return [*versions, torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())]


def _recorded(recipe: Recipe) -> list[str]:
    """Return digests of the recordings that a warm start imitates: a changed file needs a new warm start."""
    if recipe.warm_start is None or recipe.warm_start.recordings is None:
        return []
    files = recording_files(Path(recipe.warm_start.recordings))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _brought(recipe: Recipe) -> list[str]:
    """Return digests of the code of another package's environment: a changed expert needs a new warm start."""
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
    files = [file for file in package.rglob("*.py") if file.relative_to(package).parts[0] not in APART]
    return _digest(files, package)


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
