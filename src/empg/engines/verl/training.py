"""Train a recipe with verl into a run folder: the records, episodes and evaluations of our own trainer.

verl does the generation, the sharding, the optimizer and the checkpoints (`checkpoints/verl/`). Credit is that of
`learner/assign.py`. `recording.py` has what runs in verl's own processes.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from empg.engines.verl.settings import FOLDER, composed
from empg.engines.verl.tasks import write_tasks
from empg.errors import MissingExtraError, UserError, message_of
from empg.recipe import Recipe, dump_recipe
from empg.record.runfolder import START, RunFolder
from empg.run.evaluate import pending_panels
from empg.run.logger import resume_record
from empg.run.resume import changes_of
from empg.run.run import open_run
from empg.run.warm_start_cache import starting_policy
from empg.system.workers import Workers

if TYPE_CHECKING:
    from omegaconf import DictConfig


_ROLLOUT_PACKAGES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}
"""The package of each rollout engine of verl."""


def train(recipe: Recipe, run: Path, *, resume: bool = False, force: bool = False, command: str = "") -> None:
    """Train a recipe into a run folder; this process starts Ray, or connects to it, and waits for verl.

    Args:
        recipe: the resolved recipe.
        run: the run folder.
        resume: continue the run in this folder from verl's latest checkpoint.
        force: overwrite the run in this folder.
        command: the command line, for the records.

    Raises:
        MissingExtraError: verl or its rollout engine is not installed.
        RecipeError: the engine does not support a setting of the recipe.
        UserError: the recipe cannot run on this machine, or not continue this run; another process uses the folder.
    """
    config = composed(recipe, run)
    require_rollout_engine(config.actor_rollout_ref.rollout.name)
    folder = RunFolder(run)
    with ExitStack() as held:
        if resume:
            held.enter_context(RunFolder.open(run).hold())
            config.trainer.val_before_train &= _continue(recipe, folder, command)
        else:
            held.enter_context(RunFolder.reserve(run, force=force).hold())
            RunFolder.create(run, dump_recipe(recipe), force=force)
            _begin(recipe, run, command)
        write_tasks(recipe, folder.checkpoints / FOLDER)
        _start(config)


def require_rollout_engine(name: str) -> None:
    """Raise `MissingExtraError` if a rollout engine of verl is not installed; other names are a plugin's."""
    package = _ROLLOUT_PACKAGES.get(name)
    if package is not None and util.find_spec(package) is None:
        raise MissingExtraError(
            f"verl.actor_rollout_ref.rollout.name={name}: needs the package {package}, which is not installed. "
            "Install it, or choose another rollout engine"
        )


def _begin(recipe: Recipe, run: Path, command: str) -> None:
    """Write the first records of a run, and the policy that it starts from if verl cannot load it by its name."""
    with open_run(recipe, run, Workers()) as opened:
        opened.logger.begin(command)
        if recipe.policy.model == "tiny":
            opened.checkpoints.save(START, starting_policy(opened), None, {})


def _continue(recipe: Recipe, folder: RunFolder, command: str) -> bool:
    """Prepare a run folder for continuing; return whether the evaluation at the checkpoint is due and missing.

    verl saves before it evaluates, so a run can end in between.

    Raises:
        UserError: there is no checkpoint to continue from, or it has more iterations than the recipe.
    """
    iteration = _latest(folder)
    if recipe.iterations < iteration:
        raise UserError(
            f"iterations: expected >= {iteration}, which {folder.path} has finished at its latest checkpoint, "
            f"got {recipe.iterations}"
        )
    folder.read_metrics()  # a damaged record is found before anything changes
    changes = changes_of(folder, recipe)
    folder.rewind(iteration)
    folder.append_metrics(resume_record(command, recipe, iteration, changes, None))
    if changes:
        folder.replace_recipe(dump_recipe(recipe))
    due = recipe.is_due(recipe.evaluation.every, iteration)
    return due and bool(pending_panels(recipe, folder.read_metrics(), iteration))


def _latest(folder: RunFolder) -> int:
    """Return the iteration of the latest checkpoint, if its weights are there: verl would train from scratch."""
    saved = folder.checkpoints / FOLDER
    tracker = saved / "latest_checkpointed_iteration.txt"
    if not tracker.is_file():
        raise UserError(
            f"{folder.path} has no checkpoint of the engine verl: resume it with the engine it was trained with, "
            "or restart it with --force"
        )
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if not (text.isascii() and text.isdecimal()):
        raise UserError(
            f"{tracker}: expected the number of an iteration, got {text!r:.80}: write the number of the latest folder "
            f"{saved}/global_step_* into it"
        )
    actor = saved / f"global_step_{int(text)}" / "actor"
    if not actor.is_dir() or not any(actor.iterdir()):
        raise UserError(
            f"{actor} is missing, so {folder.path} cannot be resumed from iteration {int(text)}: write the number of "
            f"another folder {saved}/global_step_* into {tracker}, or restart the run with --force"
        )
    return int(text)


def _start(config: DictConfig) -> None:
    """Run verl with a configuration, and wait until it has ended."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    try:
        run_ppo(config, task_runner_class=TaskRunnerV1)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        if isinstance(error.cause, ValueError) and "available GPUs" in str(error.cause):
            raise UserError(
                f"--engine verl: {message_of(error.cause)}: set verl.trainer.n_gpus_per_node and verl.trainer.nnodes "
                "to what the Ray cluster has"
            ) from None
        raise
    finally:
        ray.shutdown()
