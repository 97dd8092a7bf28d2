"""Training, in the order of the paper's Algorithm 1: roll out, give every step its credit, update, repeat.

`train` starts the workers; each of them runs `_work`. Everything random is keyed by (seed, purpose, iteration, place),
never by a generator's state, so a run that is killed and resumed goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from pathlib import Path

from empg.learner.assign import assign_credit, has_signal
from empg.learner.checkpoint import START, CheckpointError, Checkpoints
from empg.learner.update import Update, make_optimizer
from empg.policy.model import Policy
from empg.recipe import Recipe, dump_recipe
from empg.record.runfolder import RunFolder
from empg.rollout.collector import Request
from empg.rollout.types import Episode
from empg.run.build import ROLLOUT_KEY, build_policy, play, resolve
from empg.run.evaluate import evaluate_policy
from empg.run.logger import RunLogger
from empg.run.warm_start_cache import starting_policy
from empg.system.memory import release_memory
from empg.system.workers import Workers, start_workers


def train(recipe: Recipe, run: Path, *, resume: bool = False, force: bool = False, command: str = "") -> None:
    """Train a recipe into a run folder; `resume` goes on from its newest whole checkpoint.

    Raises:
        CheckpointError: there is nothing to resume from, or a checkpoint cannot be written.
        UserError: the recipe cannot be run here.
    """
    recipe = resolve(recipe)
    if resume:
        RunFolder.open(run)
    else:
        RunFolder.create(run, dump_recipe(recipe), force=force)
    with start_workers(recipe.workers, _work, recipe, run, resume, command) as workers:
        _work(workers, recipe, run, resume, command)


def _work(workers: Workers, recipe: Recipe, run: Path, resume: bool, command: str) -> None:
    """One worker's whole run. All workers do the same; the first one writes."""
    folder = RunFolder.open(run)
    checkpoints = Checkpoints(folder.checkpoints, recipe.keep_checkpoints)
    with RunLogger(folder, recipe, workers) as logger:
        policy, name = _begin(recipe, run, checkpoints, workers, logger, resume, command)
        optimizer = make_optimizer(policy, recipe.optimizer)
        reference = policy.frozen_copy() if recipe.loss.kl_coef else None
        update = Update(policy, optimizer, recipe, workers, reference)
        done = 0
        if name is not None:
            state = checkpoints.load(name, policy, optimizer)
            done, logger.alarms.first = state["iteration"], state["alarms"]
            logger.rewind(done)
        else:
            _evaluate(recipe, policy, 0, workers, logger)
            _save(checkpoints, 0, policy, update, logger, workers)

        while done < recipe.iterations:
            began = time.perf_counter()
            episodes = roll_out(recipe, policy, done, workers, logger)
            rolled = time.perf_counter()
            assigned = assign_credit(episodes, recipe, workers)
            scored = time.perf_counter()
            stats = update(assigned, done)
            done += 1
            logger.iteration(done, episodes, assigned, stats, (began, rolled, scored, time.perf_counter()))

            last = done == recipe.iterations
            if last or (recipe.evaluation.every and done % recipe.evaluation.every == 0):
                _evaluate(recipe, policy, done, workers, logger)
            if last or done % recipe.checkpoint_every == 0:
                _save(checkpoints, done, policy, update, logger, workers)
            release_memory()
        logger.finish()


def roll_out(recipe: Recipe, policy: Policy, iteration: int, workers: Workers, logger: RunLogger) -> list[Episode]:
    """This worker's episodes of one iteration, whole groups of the same task.

    Tasks are taken in order, `rollout.groups` an iteration, and again from the start when the split is used up. With
    `credit.max_resample` (DAPO's dynamic sampling) groups without signal are played again on further tasks.
    """
    rollout = recipe.rollout
    wanted = rollout.groups // workers.size
    tasks = recipe.environment.make(recipe.environment.train_split).num_tasks
    per_iteration = rollout.groups * (1 + recipe.credit.max_resample)
    policy.model.eval()
    episodes: list[Episode] = []
    with_signal = 0
    for round_ in range(1 + recipe.credit.max_resample):
        missing = wanted - with_signal
        if missing <= 0:
            break
        first = round_ * rollout.groups
        groups = range(first + workers.rank, first + missing * workers.size, workers.size)
        requests = [
            Request(task, group, (recipe.seed, ROLLOUT_KEY, iteration, group, member))
            for group in groups
            for task in [(iteration * per_iteration + group) % tasks]
            for member in range(rollout.group_size)
        ]
        split = recipe.environment.train_split
        played = play(recipe, policy, split, requests, done=logger.rollout_progress(len(requests)))
        episodes += played
        with_signal += sum(has_signal([e for e in played if e.group == group], recipe) for group in groups)
    return episodes


def _begin(
    recipe: Recipe,
    run: Path,
    checkpoints: Checkpoints,
    workers: Workers,
    logger: RunLogger,
    resume: bool,
    command: str,
) -> tuple[Policy, str | None]:
    """The policy that reinforcement learning starts from, and the checkpoint to go on from, if any."""
    if resume:
        name, problems = checkpoints.newest_intact()
        for problem in problems:
            logger.say(f"{problem}; going back to the one before")
        if name is None and not (checkpoints.folder / START).is_dir():
            raise CheckpointError(f"{run} was stopped before its first checkpoint; start it anew with --force")
        origin = START
        try:
            checkpoints.verify(START)
        except CheckpointError as error:
            if name is None or recipe.loss.kl_coef:  # it is what is gone on from, or the KL's reference
                raise
            logger.say(f"{error}; going on without it")
            origin = name
        if name is None:
            logger.rewind(-1)
        return build_policy(recipe, checkpoints.folder / origin), name
    logger.begin(command)
    policy = starting_policy(recipe, workers, logger)
    if workers.first:
        checkpoints.save(START, policy, None, {})
    workers.barrier()
    return policy, None


def _evaluate(recipe: Recipe, policy: Policy, iteration: int, workers: Workers, logger: RunLogger) -> None:
    for split in recipe.evaluation.panels:
        for decoding in recipe.evaluation.decoding:
            done = logger.evaluation_progress(split, decoding)
            record, rows = evaluate_policy(recipe, policy, split, decoding, iteration, workers, done)
            logger.evaluation(record, rows)


def _save(
    checkpoints: Checkpoints, iteration: int, policy: Policy, update: Update, logger: RunLogger, workers: Workers
) -> None:
    if workers.first:
        state = {"iteration": iteration, "alarms": logger.alarms.first}
        checkpoints.save(f"iter-{iteration:06d}", policy, update.optimizer, state)
    workers.barrier()
