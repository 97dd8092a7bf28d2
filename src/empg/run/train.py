"""Training, in the order of the paper's Algorithm 1: roll out, assign credit to every step, update, repeat.

`train` starts the workers; each of them runs `_work`. Everything random is keyed by (seed, purpose, iteration, place),
never by a generator's state. On a CPU, a run that is killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import time
from pathlib import Path

from empg.learner.assign import assign_credit, has_signal
from empg.learner.checkpoint import START, CheckpointError
from empg.learner.update import Update, make_optimizer
from empg.policy.model import Policy
from empg.recipe import Recipe, dump_recipe
from empg.record.runfolder import RunFolder
from empg.rollout.collector import Request
from empg.rollout.types import Episode
from empg.run.build import ROLLOUT_KEY, build_policy, play, resolve
from empg.run.evaluate import evaluate_policy
from empg.run.run import Run, open_run
from empg.run.warm_start_cache import starting_policy
from empg.system.memory import release_memory
from empg.system.workers import Workers, start_workers


def train(recipe: Recipe, run: Path, *, resume: bool = False, force: bool = False, command: str = "") -> None:
    """Train a recipe into a run folder; `resume` continues from its latest intact checkpoint.

    Raises:
        CheckpointError: there is no checkpoint to resume from, or one cannot be written.
        UserError: the recipe cannot run on this machine.
    """
    recipe = resolve(recipe)
    if resume:
        RunFolder.open(run)
    else:
        RunFolder.create(run, dump_recipe(recipe), force=force)
    with start_workers(recipe.workers, _work, recipe, run, resume, command) as workers:
        _work(workers, recipe, run, resume, command)


def _work(workers: Workers, recipe: Recipe, path: Path, resume: bool, command: str) -> None:
    """One worker's whole run. All workers do the same; the first one writes."""
    with open_run(recipe, path, workers) as run:
        policy, checkpoint = _resume(run) if resume else (_begin(run, command), None)
        optimizer = make_optimizer(policy, recipe.optimizer)
        reference = policy.frozen_copy() if recipe.loss.kl_coef else None
        update = Update(policy, optimizer, recipe, workers, reference)
        done = 0
        if checkpoint is not None:
            state = run.checkpoints.load(checkpoint, policy, optimizer)
            done, run.logger.alarms.first = state["iteration"], state["alarms"]
            run.logger.rewind(done)
        else:
            _evaluate(run, policy, 0)
            _save(run, update, 0)

        while done < recipe.iterations:
            began = time.perf_counter()
            episodes = roll_out(run, policy, done)
            rolled = time.perf_counter()
            assigned = assign_credit(episodes, recipe, workers)
            credited = time.perf_counter()
            stats = update(assigned, done)
            done += 1
            run.logger.iteration(done, episodes, assigned, stats, (began, rolled, credited, time.perf_counter()))

            last = done == recipe.iterations
            if last or (recipe.evaluation.every and done % recipe.evaluation.every == 0):
                _evaluate(run, policy, done)
            if last or done % recipe.checkpoint_every == 0:
                _save(run, update, done)
            release_memory()
        run.logger.finish()


def roll_out(run: Run, policy: Policy, iteration: int) -> list[Episode]:
    """This worker's episodes of one iteration, whole groups of the same task.

    Tasks are taken in order, and again from the start when the split is used up. With `credit.max_resample` (DAPO's
    dynamic sampling) groups without signal are replaced by groups of further tasks. Every iteration reserves tasks for
    that, so their order does not depend on results.
    """
    recipe, workers = run.recipe, run.workers
    rollout, split = recipe.rollout, recipe.environment.train_split
    wanted = rollout.groups // workers.size
    tasks = recipe.environment.make(split).num_tasks
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
        played = play(recipe, policy, split, requests, done=run.logger.rollout_progress(len(requests)))
        episodes += played
        with_signal += sum(has_signal([e for e in played if e.group == group], recipe) for group in groups)
    return episodes


def _begin(run: Run, command: str) -> Policy:
    """The policy that reinforcement learning starts from; it is kept as the checkpoint `start`."""
    run.logger.begin(command)
    policy = starting_policy(run)
    if run.workers.first:
        run.checkpoints.save(START, policy, None, {})
    run.workers.barrier()
    return policy


def _resume(run: Run) -> tuple[Policy, str | None]:
    """The policy of a run that was stopped, and the checkpoint to continue from; None: from its start."""
    recipe, checkpoints, logger = run.recipe, run.checkpoints, run.logger
    name, problems = checkpoints.newest_intact()
    for problem in problems:
        logger.say(f"{problem}; falling back to the previous one")
    if name is None and not (checkpoints.folder / START).is_dir():
        raise CheckpointError(f"{run.folder.path} was stopped before its first checkpoint; restart it with --force")
    origin = START
    try:
        checkpoints.verify(START)
    except CheckpointError as error:
        if name is None or recipe.loss.kl_coef:  # the run continues from it, or the KL penalty refers to it
            raise
        logger.say(f"{error}; continuing without it")
        origin = name
    if name is None:
        logger.rewind(-1)
    return build_policy(recipe, checkpoints.folder / origin), name


def _evaluate(run: Run, policy: Policy, iteration: int) -> None:
    recipe, logger = run.recipe, run.logger
    for split in recipe.evaluation.panels:
        for decoding in recipe.evaluation.decoding:
            done = logger.evaluation_progress(split, decoding)
            record, rows = evaluate_policy(
                recipe, policy, split, decoding=decoding, iteration=iteration, workers=run.workers, done=done
            )
            logger.evaluation(record, rows)


def _save(run: Run, update: Update, iteration: int) -> None:
    if run.workers.first:
        state = {"iteration": iteration, "alarms": run.logger.alarms.first}
        run.checkpoints.save(f"iter-{iteration:06d}", update.policy, update.optimizer, state)
    run.workers.barrier()
