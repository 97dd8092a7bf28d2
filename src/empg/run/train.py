"""Training, in the order of the paper's Algorithm 1: roll out, assign credit to every step, update, repeat.

`train` starts the workers; each of them runs `_work`. Everything random is keyed by (seed, use, iteration, place),
never by a generator's state. On a CPU, a run that is killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import Signals

from empg.errors import UserError
from empg.learner.assign import assign_credit, groups_with_signal
from empg.learner.checkpoint import DivergedError, checkpoint_name, require_finite
from empg.learner.critic import Critic
from empg.learner.update import Update, make_optimizer
from empg.policy.device import claim_device
from empg.policy.model import Policy
from empg.recipe import Recipe, dump_recipe
from empg.record.runfolder import START, RunFolder
from empg.rollout.collector import Request
from empg.rollout.types import Episode
from empg.run.build import build_policy, play
from empg.run.evaluate import evaluate_policy, panel_of, pending_panels
from empg.run.logger import PhaseTimes
from empg.run.resume import ResumePoint, fork, fork_point, prepare_resume, source_run
from empg.run.run import Run, open_run
from empg.run.warm_start_cache import starting_policy
from empg.system.memory import release_memory
from empg.system.random_keys import Use, random_key
from empg.system.signals import StopRequested, StopSignals
from empg.system.workers import Workers, start_workers


class Stopped(Exception):
    """A signal stopped the run at a safe point.

    Attributes:
        signal: its number.
        iteration: finished iterations, from which the run can be resumed; None if there is nothing to resume from.
    """

    def __init__(self, signal: int, iteration: int | None) -> None:
        when = "before its first checkpoint" if iteration is None else f"after iteration {iteration}"
        super().__init__(f"stopped by {Signals(signal).name} {when}")
        self.signal, self.iteration = signal, iteration


def train(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    force: bool = False,
    back_to: str | None = None,
    fork_from: Path | None = None,
    command: str = "",
) -> None:
    """Train a recipe into a run folder, which no other process may use meanwhile.

    Args:
        recipe: the recipe as `resolve_into` returned it for this folder, `resume` and `fork_from`.
        run: the run folder.
        resume: continue the run in this folder from its latest intact checkpoint.
        force: overwrite the run in this folder.
        back_to: with `resume`, the name of a checkpoint to go back to.
        fork_from: the path of a checkpoint of another run, which the new run continues.
        command: the command line, for the records.

    Raises:
        CheckpointError: there is no checkpoint to continue from, or one cannot be written.
        DivergedError: weights or gradients are not finite.
        Stopped: SIGINT, SIGTERM or SIGHUP arrived.
        UserError: the recipe cannot run on this machine, or not continue this run; another process uses the folder.
    """
    assert resume or back_to is None
    with StopSignals(_announce) as signals, ExitStack() as held:
        claim_device(recipe.policy.device, 0, recipe.workers)
        point = None
        if resume:
            held.enter_context(RunFolder.open(run).hold())
            point = prepare_resume(recipe, RunFolder.open(run), back_to, command)
        elif fork_from is not None:
            source = source_run(fork_from, run)
            point = fork_point(recipe, source, fork_from.name)
            fork(recipe, _create(recipe, run, force, held), source, point, command)
        else:
            _create(recipe, run, force, held)
        try:
            with start_workers(recipe.workers, _work, recipe, run, point, command, signals=signals) as workers:
                stopped = _work(workers, recipe, run, point, command)
        except StopRequested:  # while the other workers started
            raise Stopped(signals.number, None if point is None else point.iteration) from None
    if stopped is not None:
        raise stopped


def _create(recipe: Recipe, run: Path, force: bool, held: ExitStack) -> RunFolder:
    """Create the folder of a new run, which stays locked until `held` is closed."""
    held.enter_context(RunFolder.reserve(run, force=force).hold())
    return RunFolder.create(run, dump_recipe(recipe), force=force)


def _announce(name: str) -> None:
    line = f"{name}: stopping at the next safe point; a second signal ends the run at once"
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _work(workers: Workers, recipe: Recipe, path: Path, point: ResumePoint | None, command: str) -> Stopped | None:
    """Do one worker's whole run. All workers do the same; the first one writes."""
    if not workers.first:  # which has claimed its own before anything was written
        claim_device(recipe.policy.device, workers.rank, workers.size)
    with open_run(recipe, path, workers, None if point is None else point.resumed_at) as run:
        try:
            policy = _begin(run, command) if point is None else _continue(run, point)
        except StopRequested:  # only on worker 0; the others are ended
            raise Stopped(workers.own_signal, None) from None
        reference = policy.reference() if recipe.loss.kl_coef else None
        critic = Critic(policy, recipe, workers) if recipe.credit.estimator.needs_critic else None
        update = Update(policy, make_optimizer(policy, recipe.optimizer), recipe, workers, reference, critic)
        done, saved = 0, -1
        if point is not None and point.checkpoint is not None:
            state = run.checkpoints.load(point.checkpoint, policy, update.optimizer, critic)
            run.logger.alarms.restore(state["alarms"])
            done = saved = point.iteration
        stopped = _iterate(run, update, done, saved)
        if stopped is None:
            run.logger.finish()
        return stopped


def _iterate(run: Run, update: Update, done: int, saved: int) -> Stopped | None:
    """Run Algorithm 1 from `done` finished iterations; the last checkpoint is that of `saved` iterations.

    A request to stop is answered where the state of the run is that of a finished iteration. A rollout or an evaluation
    is abandoned for it, and repeated by the resumed run. Nor does an error of a service, such as a judge, cost an
    iteration.
    """
    recipe, workers, policy = run.recipe, run.workers, update.policy
    while True:
        if recipe.is_due(recipe.checkpoint_every, done):  # before the evaluation, which may take long and be killed
            saved = _save(run, update, done, saved)
        stop = _evaluate(run, policy, done) if recipe.is_due(recipe.evaluation.every, done) else 0
        if stop:
            _save(run, update, done, saved)
            return Stopped(stop, done)
        if done == recipe.iterations:
            return None
        began = time.perf_counter()
        episodes: list[Episode] = []
        with _kept(run, update, done, saved):
            with suppress(StopRequested):
                episodes = roll_out(run, policy, done)
            if stop := workers.stop_signal():
                _save(run, update, done, saved)
                return Stopped(stop, done)
            rolled = time.perf_counter()
            assigned = assign_credit(episodes, recipe, workers, finished=done / recipe.iterations, critic=update.critic)
        credited = time.perf_counter()
        stats = update(assigned, done)
        done += 1
        times = PhaseTimes(rollout=rolled - began, credit=credited - rolled, update=time.perf_counter() - credited)
        run.logger.iteration(done, episodes, assigned, stats, times)
        require_finite(policy.parameters, f"after iteration {done}")
        if problem := run.logger.alarms.cannot_learn:
            raise DivergedError(f"{problem}: lower optimizer.lr, and fork an earlier checkpoint with --from")
        release_memory()


def roll_out(run: Run, policy: Policy, iteration: int) -> list[Episode]:
    """Play this worker's episodes of one iteration, whole groups of the same task.

    Tasks are taken in order, and again from the start when the split is used up. With `credit.max_resample` (DAPO's
    dynamic sampling) groups without signal are replaced by groups of further tasks. These are taken in order as well,
    from the middle of the split, and every iteration reserves some. So no order depends on results.

    Raises:
        StopRequested: this worker was asked to stop.
    """
    recipe, workers = run.recipe, run.workers
    workers.check_stop()
    rollout, split = recipe.rollout, recipe.environment.train_split
    wanted = rollout.groups // workers.size
    tasks = recipe.environment.num_tasks(split)
    reserved = rollout.groups * recipe.credit.max_resample
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
            Request(task, group, random_key(Use.ROLLOUT, iteration, group, member, seed=recipe.seed))
            for group in groups
            for task in [task_of(iteration, group, groups=rollout.groups, reserved=reserved, tasks=tasks)]
            for member in range(rollout.group_size)
        ]
        played = play(recipe, policy, split, requests, done=run.logger.rollout_progress(len(requests)))
        episodes += played
        with_signal += groups_with_signal(played, recipe)
    return episodes


def task_of(iteration: int, group: int, *, groups: int, reserved: int, tasks: int) -> int:
    """Return the task of a group: the first `groups` take all tasks in order, `reserved` others from the middle on."""
    if group < groups:
        return (iteration * groups + group) % tasks
    return (tasks // 2 + iteration * reserved + group - groups) % tasks


def _begin(run: Run, command: str) -> Policy:
    """Return the policy that reinforcement learning starts from; it is kept as the checkpoint `start`."""
    run.logger.begin(command)
    policy = starting_policy(run)
    if run.workers.first:
        run.checkpoints.save(START, policy, None, {})
    run.workers.barrier()
    return policy


def _continue(run: Run, point: ResumePoint) -> Policy:
    """Return the policy that a continued run started from; the weights of its checkpoint are loaded into it later."""
    for problem in point.problems:
        run.logger.say(problem)
    return build_policy(run.recipe, run.checkpoints.folder / point.reference)


def _evaluate(run: Run, policy: Policy, iteration: int) -> int:
    """Evaluate every panel that has no record yet at this iteration; returns the signal that ended it early, or 0."""
    recipe, logger, workers = run.recipe, run.logger, run.workers
    pending = pending_panels(recipe, run.folder.read_metrics(), iteration) if workers.first else None
    for split, decoding in workers.gather(pending)[0]:
        panel = panel_of(recipe, split)
        done = logger.evaluation_progress(panel, decoding)
        try:
            record, rows = evaluate_policy(
                recipe, policy, panel, decoding=decoding, iteration=iteration, workers=workers, done=done
            )
        except StopRequested:
            break
        logger.evaluation(record, rows)
    return workers.stop_signal()


@contextmanager
def _kept(run: Run, update: Update, iteration: int, saved: int) -> Iterator[None]:
    """Write the checkpoint of the finished iterations if worker 0 meets an error, as of a judge that is unavailable."""
    try:
        yield
    except UserError:
        with suppress(UserError):  # the first error is the cause
            _write(run, update, iteration, saved)
        raise


def _save(run: Run, update: Update, iteration: int, saved: int) -> int:
    """Write the checkpoint of an iteration unless it is the one that was `saved`; returns the iteration."""
    _write(run, update, iteration, saved)
    run.workers.barrier()
    return iteration


def _write(run: Run, update: Update, iteration: int, saved: int) -> None:
    if run.workers.first and iteration != saved:
        state = {"iteration": iteration, "alarms": run.logger.alarms.state()}
        run.checkpoints.save(checkpoint_name(iteration), update.policy, update.optimizer, state, update.critic)
