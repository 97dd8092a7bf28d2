"""The commands that train: `train` and `doctor`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from empg.cli.app import Changes, RecipeFile, RunOption, app, expanded
from empg.plain_text import visible
from empg.presets import PRESETS

if TYPE_CHECKING:
    from empg.recipe import Recipe
    from empg.run.doctor import Finding


class Engine(str, Enum):
    """What trains a recipe."""

    local = "local"
    trl = "trl"
    verl = "verl"


FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="With --resume, the name of an earlier checkpoint to go back to, e.g. iter-000040; what came later is "
        "removed. Without, the path of a checkpoint to fork into a new run.",
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option("--engine", help="Trainer: this package's own, TRL's or verl's (the last two need an extra)."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the complete configuration of the engine and train nothing.")
]


@app.command(epilog=f"Presets, to be set as in algorithm=gigpo+empg: {', '.join(PRESETS)}")
def train(
    recipe: RecipeFile,
    changes: Changes = None,
    run: RunOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint of the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing run.")] = False,
    from_: FromOption = None,
    engine: EngineOption = Engine.local,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe.

    Run the warm start, an evaluation, RL, a second evaluation, and write the report. The run folder gets the resolved
    recipe, metrics, episodes, checkpoints and report.html. Use --resume to continue a run that was stopped, even by
    kill -9. On a CPU the result is the same as without the interruption. Ctrl-C, SIGTERM and SIGHUP write a checkpoint
    first; a second one ends the run at once. A run that is stopped before its warm start has ended begins again.

    A resumed run may change: name, iterations, workers, loggers, record_token_entropies, checkpoint_every,
    keep_checkpoints, evaluation.*, environment.workers, rollout.slots, optimizer.micro_batch_tokens,
    optimizer.gradient_checkpointing, optimizer.compile, policy.device. More iterations need
    optimizer.schedule=constant and no linear zeta_schedule: these set every value by the number of iterations, so fork
    the run. A fork may change everything but policy.* (its device may change) and warm_start.
    """
    if resume and force:
        raise typer.BadParameter(
            "--resume and --force are mutually exclusive: use --resume to continue or --force to overwrite"
        )
    if from_ is not None and engine is not Engine.local:
        raise typer.BadParameter("--from needs --engine local")
    from empg.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    folder = run or _default_run(loaded)
    from empg.run.resume import resolve_into  # imports torch, which is slow and not needed to report a wrong recipe

    back_to, fork_from = (from_, None) if resume or from_ is None else (None, expanded(from_))
    resolved = resolve_into(loaded, folder, resume=resume, fork_from=fork_from)
    if dry_run:
        typer.echo(_configuration(resolved, folder, engine), nl=False)
        return
    command = shlex.join(["empg", *sys.argv[1:]])
    if engine is not Engine.local:
        start_engine = _trainer(engine)
        _require_runnable(resolved, folder, engine, begun=resume)
        start_engine(resolved, folder, resume=resume, force=force, command=command)
        return
    workers = f"{resolved.workers} workers" if resolved.workers > 1 else "one worker"
    print(visible(f"{resolved.name}: {recipe} into {folder}; starting {workers}"), flush=True)
    _require_runnable(resolved, folder, engine, begun=resume or from_ is not None)

    from empg.run.train import Stopped
    from empg.run.train import train as start

    try:
        start(resolved, folder, resume=resume, force=force, back_to=back_to, fork_from=fork_from, command=command)
    except Stopped as stopped:
        again = shlex.join(["empg", "train", str(recipe), *(changes or ()), "--run", str(folder)])
        how = f"restart: {again} --force" if stopped.iteration is None else f"resume: {again} --resume"
        typer.echo(f"empg: {stopped}; to {how}", err=True)
        raise typer.Exit(128 + stopped.signal) from None


def _trainer(engine: Engine) -> Callable[..., None]:
    """Return the function that trains with an engine of another package."""
    if engine is Engine.trl:
        from empg.engines.trl.training import train as train_with_trl

        return train_with_trl
    from empg.engines.verl.training import train as train_with_verl

    return train_with_verl


def _require_runnable(recipe: Recipe, folder: Path, engine: Engine, *, begun: bool) -> None:
    """Exit with what is wrong if a recipe cannot run here; model, memory and device are the engine's own matter."""
    from empg.run.doctor import check, check_inputs

    if begun and recipe.warm_start is not None:  # it has ended, so its recordings may be gone
        recipe = recipe.replaced({"warm_start.recordings": None})
    checked = check if engine is Engine.local else check_inputs
    if failed := [finding for finding in checked(recipe, folder) if finding.level == "fail"]:
        _show(failed, err=True)
        raise typer.Exit(1)


def _configuration(recipe: Recipe, folder: Path, engine: Engine) -> str:
    """Return what an engine would train with, as YAML: the resolved recipe, or the configuration of TRL or verl."""
    if engine is Engine.local:
        from empg.recipe import dump_recipe

        return dump_recipe(recipe)
    if engine is Engine.trl:
        from empg.engines.trl.settings import config_text

        return config_text(recipe, folder)
    from empg.engines.verl.settings import config_text as verl_config_text

    return verl_config_text(recipe, folder)


@app.command()
def doctor(recipe: RecipeFile, changes: Changes = None, run: RunOption = None) -> None:
    """Check that a recipe can run on this machine.

    Check packages, data, model, memory, disk and cores before any work starts. Exit with code 1 if the recipe cannot
    run.
    """
    from empg.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    from empg.run.build import resolve  # imports torch, as above
    from empg.run.doctor import check

    resolved = resolve(loaded, local=True)  # what is wrong with the model is a finding
    findings = check(resolved, run or _default_run(resolved))
    _show(findings)
    failed = sum(finding.level == "fail" for finding in findings)
    if failed:
        typer.echo(f"{recipe} cannot run here: {failed} {'problem' if failed == 1 else 'problems'} to fix")
        raise typer.Exit(1)
    typer.echo(f"{recipe} can run here")


def _default_run(recipe: Recipe) -> Path:
    from empg.errors import RecipeError

    name = recipe.name
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\") or len(name.encode()) > 200:
        raise RecipeError(f"name: {name!r:.80} is not a valid folder name; set the run folder with --run")
    return Path("runs") / name


def _show(findings: list[Finding], *, err: bool = False) -> None:
    for finding in findings:
        remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
        typer.echo(visible(f"{finding.level:4}  {finding.text}{remedy}"), err=err)
