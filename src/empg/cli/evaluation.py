"""The commands about finished runs: `evaluate`, `compare`, `credit`, `entropy`, `report` and `figure`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from empg.cli.app import Decoding, RunPath, app, expanded
from empg.errors import UserError
from empg.plain_text import visible

if TYPE_CHECKING:
    from empg.recipe import Recipe


@app.command()
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN | KEY=VALUE...",
            help="Run folder, e.g. runs/demo. With --model: recipe overrides, e.g. agent.history=merged",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to evaluate: a folder, a Hugging Face name, or openai:URL#MODEL")
    ] = None,
    environment: Annotated[str | None, typer.Option(help="Environment, with --model.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to evaluate: iter-000040 or start  [default: the latest]")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split; repeatable  [default: the recipe's; else the environment's]")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Tasks per panel  [default: the recipe's; with --model 100]")
    ] = None,
    decoding: Annotated[Decoding, typer.Option(help="Decoding of the policy.")] = Decoding.sampled,
    temperature: Annotated[
        float | None, typer.Option(min=1e-3, help="Sampling temperature  [default: the recipe's; with --model 1]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Results, with --model  [default: evaluations/...]", parser=expanded),
    ] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(help="Environment variable with the API key of openai:URL#MODEL, with --model  [default: no key]"),
    ] = None,
    prices: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Prices per million prompt and completion tokens, with --model, e.g. 0.15 0.6"),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(help="Let the expert and a random policy play the panels, with --model  [default: baselines]"),
    ] = None,
) -> None:
    """Evaluate a run, or any model, on fixed panels of tasks.

    Write the results into the run folder, where `empg compare` reads them. With --model, an evaluation that was stopped
    resumes when the command is repeated.
    """
    given = arguments or []
    _check_evaluated(given, model, environment, checkpoint, prices, (out, key_variable, baselines))
    if decoding is Decoding.greedy and temperature is not None:
        raise typer.BadParameter("--temperature needs --decoding sampled")
    if model is None or environment is None:
        lines = _evaluated_run(expanded(given[0]), checkpoint, split, episodes, decoding, temperature)
    else:
        from empg.run.evaluate_model import default_folder, model_recipe

        recipe = model_recipe(model, environment, split or [], episodes, temperature, given)
        folder = out or default_folder(model, environment)
        lines = _evaluated_model(recipe, folder, decoding, key_variable, prices, baselines is not False)
    typer.echo(visible("\n".join(lines)))


def _evaluated_run(
    run: Path,
    checkpoint: str | None,
    split: list[str] | None,
    episodes: int | None,
    decoding: Decoding,
    temperature: float | None,
) -> list[str]:
    from empg.run.display import Progress
    from empg.run.evaluate import evaluate_run
    from empg.run.results import evaluation_lines

    with Progress(0) as progress:
        records = evaluate_run(run, checkpoint, split or None, episodes, decoding.value, temperature, progress.stage)
    return list(evaluation_lines(records))


def _evaluated_model(
    recipe: Recipe,
    folder: Path,
    decoding: Decoding,
    key_variable: str | None,
    prices: tuple[float, float] | None,
    baselines: bool,
) -> list[str]:
    from empg.run.display import Progress
    from empg.run.evaluate_model import evaluate_model
    from empg.run.results import model_lines

    with Progress(0) as progress:
        found = evaluate_model(
            recipe, folder, decoding.value, key_variable=key_variable, baselines=baselines, stage=progress.stage
        )
    return [*(line for evaluation in found for line in model_lines(evaluation, prices)), f"results: {folder}"]


def _check_evaluated(
    given: list[str],
    model: str | None,
    environment: str | None,
    checkpoint: str | None,
    prices: tuple[float, float] | None,
    others: tuple[object, ...],
) -> None:
    """Reject arguments that belong to the evaluation of a run in that of a model, and the other way round."""
    if model is None:
        if len(given) != 1:
            raise typer.BadParameter("expected one run folder, or --model and --environment")
        if environment is not None or any(option is not None for option in (prices, *others)):
            raise typer.BadParameter("--environment, --out, --key-variable, --prices and --no-baselines need --model")
    elif environment is None:
        raise typer.BadParameter("--model needs --environment")
    elif checkpoint is not None:
        raise typer.BadParameter("--checkpoint is for a run folder; name the checkpoint's folder with --model")
    elif prices is not None and not model.startswith("openai:"):
        raise typer.BadParameter("--prices is for openai:URL#MODEL")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run to compare with.", parser=expanded)],
    run_b: Annotated[
        Path, typer.Argument(metavar="RUN_B", help="Run to compare; may be the same run.", parser=expanded)
    ],
    split: Annotated[
        str | None, typer.Option(help="Evaluation split  [default: all that both runs were evaluated on]")
    ] = None,
    decoding: Annotated[Decoding, typer.Option(help="Decoding of the evaluations.")] = Decoding.sampled,
    iteration_a: Annotated[int | None, typer.Option(min=0, help="Iteration of A  [default: its last]")] = None,
    iteration_b: Annotated[int | None, typer.Option(min=0, help="Iteration of B  [default: its last]")] = None,
) -> None:
    """Compare two runs task by task.

    Both runs must be evaluated on the same panel. Other differing evaluation settings, such as the temperature, are
    reported. To see the effect of training, give the same run twice, with --iteration-a 0.
    """
    from empg.recipe.recorded import completed
    from empg.record.runfolder import RunFolder
    from empg.record.statistics import compare as pair
    from empg.record.statistics import shared_splits
    from empg.run.results import comparison_lines

    def recipe_of(run: RunFolder) -> Mapping[str, Any]:
        return completed(run.recipe_values())

    a, b = RunFolder.open(run_a), RunFolder.open(run_b)
    wanted = (
        ([] if split is None else [split])
        or shared_splits(a, b, decoding.value, iteration_a=iteration_a, iteration_b=iteration_b)
        # If no split was evaluated at these iterations, the comparison says which iterations there are.
        or shared_splits(a, b, decoding.value)
    )
    if not wanted:
        raise UserError(f"{run_a} and {run_b} have no {decoding.value} evaluation of the same split")
    for place, name in enumerate(wanted):
        result = pair(a, b, name, decoding.value, iteration_a=iteration_a, iteration_b=iteration_b, recipe_of=recipe_of)
        if place:
            typer.echo("")
        typer.echo(visible("\n".join(comparison_lines(run_a, run_b, result))))


@app.command()
def credit(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders, e.g. runs/s0 runs/s1", parser=expanded)
    ],
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="Rule as credit.modulation of a recipe: a name, none, or options as in '{name: empg, k: 2}'; "
            "repeatable  [default: every rule]",
        ),
    ] = None,
    reference: Annotated[str, typer.Option(metavar="RULE", help="Rule that the others are compared with.")] = "centred",
) -> None:
    """Rank rules of credit on the episodes of runs, without training.

    The other episodes of a group that began in the same way tell what an action was worth. A rule is aligned if it
    gives credit to the actions that were worth it: 1 is perfect, 0 is no relation. In our studies, rules that were
    less aligned than the control trained worse; those that were more aligned did not always train better.
    For example:  empg credit runs/demo --rule empg --rule '{name: empg_variant, clarity: won, zeta: 2}'
    """
    from empg.record.runfolder import RunFolder
    from empg.run.alignment import every_rule, measure_alignment, read_rule
    from empg.run.display import Progress
    from empg.run.results import alignment_lines

    rules, base = [read_rule(text) for text in rule or every_rule()], read_rule(reference, "--reference")
    folders = [RunFolder.open(run) for run in runs]
    if len({run.resolve() for run in runs}) < len(runs):
        raise typer.BadParameter("a run is named twice, which would count its episodes twice. Name it once")
    with Progress(0, first="reading the runs") as progress:
        found = measure_alignment(folders, rules, base, progress.stage)
    typer.echo(visible("\n".join(alignment_lines(found))))


@app.command()
def entropy(
    run: RunPath,
    split: Annotated[str | None, typer.Option(help="Split of the tasks  [default: the recipe's first panel]")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Tasks that each of the two policies plays.")] = 64,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for coupling.svg and entropy-change.svg.", parser=expanded),
    ] = None,
) -> None:
    """Measure how gradients depend on step entropy, and how training changed it.

    The trained policy plays tasks, and each of its steps gets the size of its gradient beside that of Proposition 1 of
    the paper. The policy before reinforcement learning plays the same tasks, and the trained one scores its steps.
    Every value is written to entropy.json in the run folder.
    """
    from empg.record.durable import require_output
    from empg.record.runfolder import RunFolder
    from empg.report.entropy_svg import draw_coupling, draw_entropy_change
    from empg.run.coupling import measure_entropy, require_writable, write_measurements
    from empg.run.display import Progress
    from empg.run.results import entropy_lines

    folder = RunFolder.open(run)
    require_writable(folder)
    drawn = [] if figures is None else [figures / "coupling.svg", figures / "entropy-change.svg"]
    for file in drawn:
        require_output(file)
    with Progress(0) as progress:
        measured = measure_entropy(run, progress.stage, split, episodes)
    typer.echo(visible("\n".join(entropy_lines(measured))))
    typer.echo(write_measurements(folder, measured))
    if drawn:
        note = f"{folder.path.absolute().name}, {measured.checkpoint}, {measured.split}"
        steps, before = f"{len(measured.gradients)} steps of {note}", f"{len(measured.before)} steps of {note}"
        typer.echo(draw_coupling(measured.gradient_tenths, drawn[0], steps))
        typer.echo(draw_entropy_change(measured.change_tenths, drawn[1], before))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders; several need --serve", parser=expanded)
    ],
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    serve_: Annotated[
        bool, typer.Option("--serve", help="Serve the inspector: every kept episode, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for --serve; 0 picks a free port.", show_default="8000"),
    ] = None,
) -> None:
    """Write a run's HTML report, or serve the inspector.

    The report is one self-contained file that needs no network. It shows a sample of the episodes and can also be
    written during training. The inspector (--serve) shows every kept episode of one or more runs on this machine only.
    """
    from empg.record.runfolder import RunFolder

    if serve_:
        from empg.report.inspector.app import serve

        def ready(address: str) -> None:
            print(f"{address}  (press Ctrl-C to stop)", flush=True)
            if open_:
                typer.launch(address)

        serve([RunFolder.open(run) for run in runs], 8000 if port is None else port, ready)
        return
    if port is not None:
        raise typer.BadParameter("--port is the port of the inspector. Add --serve")
    from empg.report.page import build_page

    if len(runs) > 1:
        raise typer.BadParameter(f"expected one RUN without --serve, got {len(runs)}. Add --serve to see several")
    page = build_page(RunFolder.open(runs[0]))
    typer.echo(page)
    if open_:
        typer.launch(page.absolute().as_uri())


@app.command()
def figure(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders, e.g. runs/s0 runs/s1", parser=expanded)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.svg", help="Output file.", parser=expanded)],
    title: Annotated[str, typer.Option(help="Title above the plot.")] = "Success during training",
    label: Annotated[
        list[str] | None, typer.Option(help="Label of a run; repeat it once per run, in order  [default: the seeds]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Evaluation split of the dots  [default: the first]")] = None,
    decoding: Annotated[Decoding, typer.Option(help="Decoding of the evaluations.")] = Decoding.sampled,
) -> None:
    """Draw learning curves as an SVG for a page or a paper.

    Lines are the success of the training episodes (thin: each iteration, thick: running mean). Dots are evaluations
    with 95% intervals. Several runs are overlaid, usually one recipe with several seeds. The file is self-contained
    and suits light and dark pages. For example:  empg figure runs/demo --out demo.svg
    """
    from empg.record.runfolder import RunFolder
    from empg.report.svg import draw_curve

    if out.suffix.lower() != ".svg":
        raise typer.BadParameter(f"--out: expected a file that ends in .svg, got {out}")
    folders = [RunFolder.open(run) for run in runs]
    if label and len(label) != len(folders):
        raise typer.BadParameter(
            f"wrong number of labels: expected one --label per run, got {len(label)} for {len(folders)} runs"
        )
    typer.echo(draw_curve(folders, out, split=split, decoding=decoding.value, labels=label or None, title=title))
