"""The commands about finished runs: `evaluate`, `compare`, `report` and `figure`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from empg.cli.app import Decoding, RunPath, app
from empg.errors import UserError
from empg.plain_text import visible


@app.command()
def evaluate(
    run: RunPath,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to evaluate: iter-000040 or start  [default: the latest]")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to evaluate; repeatable  [default: the recipe's]")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Tasks per panel  [default: the recipe's]")] = None,
    decoding: Annotated[Decoding, typer.Option(help="Decoding of the policy.")] = Decoding.sampled,
    temperature: Annotated[
        float | None, typer.Option(min=1e-3, help="Sampling temperature  [default: the recipe's]")
    ] = None,
) -> None:
    """Evaluate a run on fixed panels of tasks.

    Write the results into the run folder, where `empg compare` reads them.
    """
    from empg.run.display import Progress
    from empg.run.evaluate import evaluate_run
    from empg.run.results import evaluation_lines

    with Progress(0) as progress:

        def stage(name: str, total: int) -> Callable[[int], None]:
            progress.stage(name, total)
            return progress.done

        records = evaluate_run(run, checkpoint, split or None, episodes, decoding.value, temperature, stage)
    typer.echo(visible("\n".join(evaluation_lines(records))))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run to compare with.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run to compare; may be the same run.")],
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
    from empg.record.runfolder import RunFolder
    from empg.record.statistics import compare as pair
    from empg.record.statistics import shared_splits
    from empg.run.results import comparison_lines

    a, b = RunFolder.open(run_a), RunFolder.open(run_b)
    wanted = [split] if split is not None else shared_splits(a, b, decoding.value)
    if not wanted:
        raise UserError(f"{run_a} and {run_b} have no {decoding.value} evaluation of the same split")
    for place, name in enumerate(wanted):
        result = pair(a, b, name, decoding.value, iteration_a=iteration_a, iteration_b=iteration_b)
        if place:
            typer.echo("")
        typer.echo(visible("\n".join(comparison_lines(run_a, run_b, result))))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders; several need --serve")],
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    serve_: Annotated[
        bool, typer.Option("--serve", help="Serve the inspector: every kept episode, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve; 0 picks a free port.")] = 8000,
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

        serve([RunFolder.open(run) for run in runs], port, ready)
        return
    from empg.report.page import build_page

    if len(runs) > 1:
        raise typer.BadParameter(f"expected one RUN without --serve, got {len(runs)}. Add --serve to see several")
    page = build_page(RunFolder.open(runs[0]))
    typer.echo(page)
    if open_:
        typer.launch(page.absolute().as_uri())


@app.command()
def figure(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, e.g. runs/s0 runs/s1")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.svg", help="Output file.")],
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
    from empg.report.figure import draw_curve

    folders = [RunFolder.open(run) for run in runs]
    if label and len(label) != len(folders):
        raise typer.BadParameter(
            f"wrong number of labels: expected one --label per run, got {len(label)} for {len(folders)} runs"
        )
    typer.echo(draw_curve(folders, out, split=split, decoding=decoding.value, labels=label or None, title=title))
