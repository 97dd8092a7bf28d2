"""Continue a run: from its latest checkpoint, from an earlier one, or from a checkpoint of another run (a fork)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.errors import RecipeError
from empg.learner.checkpoint import CheckpointError, Checkpoints, checkpoint_name
from empg.recipe import Recipe, dump_recipe
from empg.recipe.recorded import CHANGES_NO_NUMBER
from empg.record.records import Record, train_records
from empg.record.runfolder import START, RunFolder
from empg.run.build import resolve
from empg.run.logger import resume_record
from empg.run.metric_loggers import require_packages
from empg.run.recipe import recipe_of

Changes = dict[str, tuple[Any, Any]]
"""By key: the value of the run and the value of the recipe."""

# What a resumed run may change, because its result keeps its meaning: how work is divided, and what is written down.
# The last line changes the order of sums and where they are rounded.
FREE = {
    *CHANGES_NO_NUMBER, "iterations",
    "rollout.slots", "optimizer.micro_batch_tokens", "optimizer.compile", "policy.device", "workers",
}  # fmt: skip
_FIXED_BY_BASE = ("seed", "environment.", "agent.form")  # makes the tiny model, which an adapter does not contain
_FIXED_BY_WEIGHTS = ("policy.", "warm_start")  # what a fork keeps, because its policy exists already


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where a run continues.

    Attributes:
        checkpoint: the checkpoint that is loaded; None: from `start`, without the state of an optimizer.
        iteration: finished iterations.
        reference: the checkpoint that has the reference policy of `loss.kl_coef`.
        problems: what is wrong with later checkpoints, as lines.
    """

    checkpoint: str | None
    iteration: int
    reference: str
    problems: tuple[str, ...] = ()

    @property
    def resumed_at(self) -> int:
        """The last iteration whose records are kept; -1: not even the evaluation of the policy before RL."""
        return self.iteration if self.checkpoint is not None else -1


def resolve_into(recipe: Recipe, run: Path, *, resume: bool = False, fork_from: Path | None = None) -> Recipe:
    """Resolve a recipe for a run folder, and check that it may continue the run that it continues.

    Args:
        recipe: the recipe as it was written.
        run: the run folder.
        resume: the run in this folder is continued.
        fork_from: the path of a checkpoint of another run that is forked.

    Raises:
        MissingExtraError: the package of a logger is not installed.
        RecipeError: the run that it continues must not change this way.
    """
    require_packages(recipe)
    if resume:
        return like_the_run(recipe, RunFolder.open(run))
    if fork_from is not None:
        return like_the_run(recipe, source_run(fork_from, run), fork=True)
    return resolve(recipe)


def like_the_run(recipe: Recipe, folder: RunFolder, *, fork: bool = False) -> Recipe:
    """Resolve a recipe for a run that continues, and check that it may.

    Raises:
        RecipeError: it changes something that must stay.
    """
    recipe = resolve(recipe, recipe_of(folder))
    changes = changes_of(folder, recipe)
    _require_allowed(changes, recipe, folder.path, fork)
    return recipe


def changes_of(folder: RunFolder, recipe: Recipe) -> Changes:
    """Return what a resolved recipe changes in that of a run."""
    begun = recipe_of(folder)
    return dict(_differences(begun.model_dump(mode="json"), recipe.model_dump(mode="json")))


def prepare_resume(recipe: Recipe, folder: RunFolder, back_to: str | None, command: str) -> ResumePoint:
    """Prepare a run folder, which the caller holds, for continuing; later records and checkpoints are removed.

    Args:
        recipe: what `resolve_into` returned.
        folder: the run.
        back_to: a checkpoint, `start` or `iter-000040`; None is the latest that is intact.
        command: the command line.

    Raises:
        CheckpointError: there is no checkpoint to continue from.
        RecipeError: the recipe must not change this way.
        RunFolderError: a record is damaged.
    """
    # `like_the_run` has checked this before the folder was locked: another process may have resumed the run meanwhile.
    changes = changes_of(folder, recipe)
    _require_allowed(changes, recipe, folder.path, fork=False)
    point = _find_point(recipe, folder, back_to)
    _require_iterations(recipe, folder.path, point)
    records = folder.read_metrics()  # a damaged one is found before a checkpoint is removed
    if back_to is None and not point.problems:
        _require_newest(folder, records, point)
    # Every check has passed; from here on the folder changes. If this is interrupted, it can be repeated.
    Checkpoints(folder.checkpoints).remove_after(point.resumed_at)
    folder.rewind(point.resumed_at)
    if changes or back_to is not None or point.iteration < recipe.iterations:
        folder.append_metrics(resume_record(command, recipe, point.iteration, changes, None))
    if changes:
        folder.replace_recipe(dump_recipe(recipe))
    return point


def source_run(checkpoint: Path, target: Path) -> RunFolder:
    """Return the run of a checkpoint that `target` is to be forked from.

    Raises:
        CheckpointError: it is not the path of a checkpoint in a run, or is that of the target itself.
    """
    folder = checkpoint.absolute().parent
    source = RunFolder(folder.parent)
    if folder != source.checkpoints or not source.exists:
        raise CheckpointError(
            f"--from {checkpoint}: expected the path of a checkpoint in a run, e.g. runs/demo/checkpoints/iter-000040; "
            "to go back within a run, add --resume and give the name alone"
        )
    if target.exists() and target.samefile(folder.parent):
        raise CheckpointError(
            f"--from {checkpoint} is a checkpoint of {target} itself: name another folder with --run, "
            f"or go back within the run with --resume --from {checkpoint.name}"
        )
    return RunFolder.open(checkpoint.parent.parent)


def fork_point(recipe: Recipe, source: RunFolder, checkpoint: str) -> ResumePoint:
    """Check a checkpoint that is to be forked, and the records of its run; nothing is written.

    Raises:
        CheckpointError: it does not exist or is damaged.
        RecipeError: it has more iterations than the recipe.
        RunFolderError: a record of its run is damaged.
    """
    point = _find_point(recipe, source, checkpoint)
    _require_iterations(recipe, source.path, point)
    source.read_metrics()
    return point


def fork(recipe: Recipe, folder: RunFolder, source: RunFolder, point: ResumePoint, command: str) -> None:
    """Fill the new, empty run folder with what led to a checkpoint of another run, to continue from there."""
    changes = changes_of(source, recipe)
    names = dict.fromkeys((point.checkpoint or START, point.reference))
    folder.copy_records(source, point.resumed_at)
    taken = str(source.checkpoints / next(iter(names)))
    folder.append_metrics(resume_record(command, recipe, point.iteration, changes, taken))
    # `start` comes last: with it alone, an interrupted fork would be resumed from the policy before RL.
    for name in names:
        Checkpoints(folder.checkpoints).copy(name, source.checkpoints / name)


def _require_iterations(recipe: Recipe, run: Path, point: ResumePoint) -> None:
    if recipe.iterations < point.iteration:
        raise RecipeError(
            f"iterations: expected >= {point.iteration}, which {run} has finished at this checkpoint, "
            f"got {recipe.iterations}. Choose an earlier checkpoint with --from"
        )


def _find_point(recipe: Recipe, folder: RunFolder, name: str | None) -> ResumePoint:
    """Find where to continue, and check every file that is needed for it."""
    checkpoints = Checkpoints(folder.checkpoints)
    problems: list[str] = []
    if name is None:
        name, problems = checkpoints.newest_intact()
        if name is None and (checkpoints.folder / "verl").is_dir():
            raise CheckpointError(f"{folder.path} was trained by another engine: resume it with --engine verl")
        if name is None and not (checkpoints.folder / START).is_dir():
            raise CheckpointError(_without_checkpoint(folder, problems))
    else:
        checkpoints.require(name)
    checkpoint = None if name == START else name
    iteration = int(checkpoints.verify(checkpoint)["iteration"]) if checkpoint else 0
    problems = [f"{problem}; falling back to the previous one" for problem in problems]
    reference = START
    try:
        checkpoints.verify(START)
    except CheckpointError as error:
        if checkpoint is None or recipe.loss.kl_coef:  # the run continues from it, or the KL penalty refers to it
            raise
        problems.append(f"{error}; continuing without it")
        reference = checkpoint
    return ResumePoint(checkpoint=checkpoint, iteration=iteration, reference=reference, problems=tuple(problems))


def _require_newest(folder: RunFolder, records: Sequence[Record], point: ResumePoint) -> None:
    """Make sure that no later checkpoint was removed by hand: all records after the point are about to be removed."""
    finished = max((record["iteration"] for record in train_records(records)), default=0)
    every = recipe_of(folder).checkpoint_every
    saved = (finished - 1) // every * every  # a run may be stopped between an iteration and its checkpoint
    if saved > point.iteration:
        here = point.checkpoint or START
        raise CheckpointError(
            f"{folder.path} finished {finished} iterations, but its newest checkpoint is {here}. Restore "
            f"{folder.checkpoints / checkpoint_name(saved)} or a later one, or go back to {here} with --from {here}"
        )


def _without_checkpoint(folder: RunFolder, problems: list[str]) -> str:
    """Return why a run has nothing to continue from; `problems` are those of its checkpoints, none of them intact."""
    if not problems and not any("iteration" in record for record in folder.read_metrics()):
        return f"{folder.path} was stopped before its first checkpoint; restart it with --force"
    what = "; ".join(problems) or f"the checkpoints of {folder.path} were removed"  # `start` precedes these records
    return f"{what}. Restore the files in {folder.checkpoints}, or restart the run with --force"


def _require_allowed(changes: Mapping[str, tuple[Any, Any]], recipe: Recipe, run: Path, fork: bool) -> None:
    refused = [
        f"{key}={after} (the run has {before}{reason})"
        for key, (before, after) in changes.items()
        if (reason := _reason(key, recipe, fork)) is not None
    ]
    if not refused:
        return
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    what = "forked" if fork else "resumed"
    remedy = (
        "use the values of the run; --help lists what may change"
        if fork
        else "use the values of the run, or fork it into another folder: --from RUN/checkpoints/NAME --run NEW"
    )
    raise RecipeError(f"{run} cannot be {what} with {', '.join(refused[:5])}{more}: {remedy}")


def _reason(key: str, recipe: Recipe, fork: bool) -> str | None:
    """Return why a key must keep its value, as an addition to the message; None if it may change."""
    if key == "policy.device":
        return None
    if fork:
        if recipe.policy.model == "tiny" and recipe.policy.lora is not None and key.startswith(_FIXED_BY_BASE):
            return "; the model that its adapter belongs to is made from it"
        return "; its weights exist already" if key.startswith(_FIXED_BY_WEIGHTS) else None
    if key == "iterations" and recipe.optimizer.schedule != "constant":
        return f"; with optimizer.schedule={recipe.optimizer.schedule} it sets every learning rate"
    rule = recipe.credit.modulation
    if key == "iterations" and rule is not None and getattr(rule.options, "zeta_schedule", "constant") != "constant":
        return f"; with credit.modulation.zeta_schedule={rule.options.zeta_schedule} it sets every zeta"
    if key == "workers" and (recipe.optimizer.minibatches > 1 or recipe.credit.max_resample):
        cause = "optimizer.minibatches > 1" if recipe.optimizer.minibatches > 1 else "credit.max_resample > 0"
        return f"; with {cause} results depend on it"
    return None if key in FREE or key.startswith("evaluation.") else ""


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, (old, new)
