"""The commands. Each command imports heavy modules only when it runs, so that `empg --help` is fast."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import empg
from empg.errors import UserError

if TYPE_CHECKING:
    from empg.recipe import Recipe
    from empg.run.doctor import Finding

# Work is distributed over processes with one thread each. torch reads these variables when it is imported.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Commands(TyperGroup):
    """The command group. Prints a `UserError` as one line on standard error; other exceptions keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with code 1 after a `UserError`."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            for line in str(error).splitlines():
                typer.echo(f"empg: {line}", err=True)
            raise typer.Exit(1) from None


class PlayCommand(TyperCommand):
    """A command whose help ends with the registered environments. They are looked up only for the help."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the registered environments below the options."""
        from empg.environments.registry import known_ids

        with formatter.section("Registered environments"):
            formatter.write_text(", ".join(known_ids()))


app = typer.Typer(
    name="empg",
    cls=Commands,
    help="Train language-model agents on long tasks with Entropy-Modulated Policy Gradients (EMPG).\n\n"
    "Start with:  empg doctor demo,  then  empg train demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe overrides, e.g. seed=3 credit.modulation.zeta=0.05"),
]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, e.g. demo, or a YAML file")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, e.g. runs/demo")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run folder  [default: runs/<name>]")]


class Index(str, Enum):
    """The index of a served corpus."""

    bm25 = "bm25"
    tantivy = "tantivy"
    dense = "dense"


class Pooling(str, Enum):
    """How an encoder pools its token vectors."""

    mean = "mean"
    cls = "cls"


class Decoding(str, Enum):
    """How an evaluation chooses tokens."""

    sampled = "sampled"
    greedy = "greedy"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(empg.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)


@app.command()
def train(
    recipe: RecipeFile,
    changes: Changes = None,
    run: RunOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint of the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing run.")] = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="With --resume, the name of an earlier checkpoint to go back to, e.g. iter-000040; what came later is "
            "removed. Without, the path of a checkpoint to fork into a new run.",
        ),
    ] = None,
) -> None:
    """Train a recipe.

    Run the warm start, an evaluation, RL, a second evaluation, and write the report. The run folder gets the resolved
    recipe, metrics, episodes, checkpoints and report.html. Use --resume to continue a run that was stopped, even by
    kill -9. On a CPU the result is the same as without the interruption. Ctrl-C, SIGTERM and SIGHUP write a checkpoint
    first; a second one ends the run at once.

    A resumed run may change: name, iterations, workers, checkpoint_every, keep_checkpoints, evaluation.*,
    environment.workers, rollout.slots, optimizer.micro_batch_tokens, policy.device. More iterations need
    optimizer.schedule=constant: linear and cosine set every learning rate by the number of iterations, so fork the
    run. A fork may change everything but the policy's shape and the warm start.
    """
    if resume and force:
        raise typer.BadParameter(
            "--resume and --force are mutually exclusive: use --resume to continue or --force to overwrite"
        )
    from empg.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    folder = run or _default_run(loaded)
    from empg.run.resume import resolve_into  # imports torch, which is slow and not needed to report a wrong recipe

    resolved = resolve_into(loaded, folder, resume=resume, origin=from_)
    workers = f"{resolved.workers} workers" if resolved.workers > 1 else "one worker"
    print(f"{resolved.name}: {recipe} into {folder}; starting {workers}", flush=True)

    from empg.run.doctor import check
    from empg.run.train import Stopped
    from empg.run.train import train as start

    failed = [finding for finding in check(resolved, folder) if finding.level == "fail"]
    if failed:
        _show(failed, err=True)
        raise typer.Exit(1)
    command = shlex.join(["empg", *sys.argv[1:]])
    try:
        start(resolved, folder, resume=resume, force=force, origin=from_, command=command)
    except Stopped as stopped:
        again = ["empg", "train", str(recipe), *(changes or ()), "--run", str(folder)]
        how = shlex.join([*again, "--force" if stopped.iteration is None else "--resume"])
        typer.echo(f"empg: {stopped}; to {'restart' if stopped.iteration is None else 'resume'}: {how}", err=True)
        raise typer.Exit(128 + stopped.signal) from None


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
    typer.echo("\n".join(evaluation_lines(records)))


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
        typer.echo("\n".join(comparison_lines(run_a, run_b, result)))


@app.command()
def report(
    run: RunPath,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Write a run's HTML report.

    The report is one self-contained file that needs no network. It can also be written during training.
    """
    from empg.record.runfolder import RunFolder
    from empg.report.page import build_page

    page = build_page(RunFolder.open(run))
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

    resolved = resolve(loaded)
    findings = check(resolved, run or _default_run(resolved))
    _show(findings)
    failed = sum(finding.level == "fail" for finding in findings)
    if failed:
        typer.echo(f"{recipe} cannot run here: {failed} {'problem' if failed == 1 else 'problems'} to fix")
        raise typer.Exit(1)
    typer.echo(f"{recipe} can run here")


@app.command(cls=PlayCommand)
def play(
    environment: Annotated[
        str, typer.Argument(metavar="ENVIRONMENT", help="Registered environment, or gymnasium id of a text environment")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Environment options, e.g. rooms=small max_steps=20")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the task.")] = "train",
    task: Annotated[int | None, typer.Option(min=0, help="Task index  [default: random]")] = None,
    expert: Annotated[bool, typer.Option("--expert", help="Watch the expert play.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Play in the browser, on this machine only.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --web; 0 picks a free port.")] = 8000,
    record: Annotated[Path | None, typer.Option(help="File for finished episodes of --web (JSON lines).")] = None,
) -> None:
    """Play an environment yourself.

    Type ? to list the valid commands and Tab to complete one. Commands can also be read from a pipe.
    """
    from empg.play import open_environment, show_in_browser
    from empg.play import play as begin

    if web and (task is not None or expert):
        raise typer.BadParameter("--web cannot be combined with --task or --expert")
    if record is not None and not web:
        raise typer.BadParameter("--record needs --web")
    opened = open_environment(environment, split, options or ())
    try:
        if web:
            show_in_browser(opened, port, record)
        else:
            begin(opened, task, expert=expert)
    finally:
        opened.close()


@app.command("serve-retriever")
def serve_retriever(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help='File with lines {"id": ..., "contents": ...}')],
    retriever: Annotated[Index, typer.Option(help="Kind of index.")] = Index.bm25,
    encoder: Annotated[Path | None, typer.Option(help="Folder of a sentence-embedding model, for dense.")] = None,
    query_prefix: Annotated[
        str, typer.Option(help='Prefix that the encoder expects before queries: "query: " for E5.')
    ] = "",
    document_prefix: Annotated[
        str, typer.Option(help='Prefix that the encoder expects before documents: "passage: " for E5.')
    ] = "",
    pooling: Annotated[
        Pooling | None, typer.Option(help="Pooling of the encoder  [default: that of its folder]")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the encoder, in torch's notation.")] = "cpu",
    faiss: Annotated[
        str | None, typer.Option(help="faiss index factory string, e.g. HNSW32  [default: exact search]")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Published faiss index of the corpus, for dense.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the index  [default: next to the corpus]")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free port.")] = 8000,
) -> None:
    """Serve a corpus to search agents, with Search-R1's API.

    Answer POST /retrieve {"queries": [...], "topk": 3, "return_scores": true}. The corpus is indexed once; later starts
    reuse the index.
    """
    from empg.environments.deepsearch.served_corpus import serve_corpus

    model = None
    if encoder is not None:
        marks = {"query_prefix": query_prefix, "document_prefix": document_prefix}
        model = {"folder": encoder, **marks, "pooling": pooling and pooling.value, "device": device}
    searching = {"retriever": retriever.value, "encoder": model, "faiss": faiss, "index": index, "cache": cache}
    serve_corpus(
        corpus, searching, host, port, ready=lambda address: print(f"{address}  (press Ctrl-C to stop)", flush=True)
    )


def _default_run(recipe: Recipe) -> Path:
    from empg.errors import RecipeError

    name = recipe.name
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\") or len(name.encode()) > 200:
        raise RecipeError(f"name: {name!r:.80} is not a valid folder name; set the run folder with --run")
    return Path("runs") / name


def _show(findings: list[Finding], *, err: bool = False) -> None:
    for finding in findings:
        remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
        typer.echo(f"{finding.level:4}  {finding.text}{remedy}", err=err)
