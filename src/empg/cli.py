"""The commands. Everything heavy is imported by the command that needs it, so that `empg --help` answers at once."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import empg

if TYPE_CHECKING:
    from empg.doctor import Finding
    from empg.recipe import Recipe

# Work is spread over processes, one thread each; torch reads these when it is imported.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Commands(TyperGroup):
    """The group of commands: what a person can mend is one line on standard error, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors that this package words for people end it with exit code 1."""
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            if not _worded(error):
                raise
            for line in str(error).splitlines():
                typer.echo(f"empg: {line}", err=True)
            raise typer.Exit(1) from None


def _worded(error: Exception) -> bool:
    """Whether the error was raised by this package, about its input; anything else is a bug and keeps its traceback."""
    if isinstance(error, RuntimeError) and type(error).__name__ not in ("CheckpointError", "WorkerError"):
        return False
    if isinstance(error, ModuleNotFoundError) and error.name:
        return False  # a missing package: `empg.__main__` names the extra that brings it
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] == "empg"


app = typer.Typer(
    name="empg",
    cls=Commands,
    help="Train language-model agents on long tasks, with credit that follows the agent's own certainty (EMPG).\n\n"
    "Begin with:  empg doctor recipes/demo.yaml,  then  empg train recipes/demo.yaml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Changes = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes, e.g. seed=3 credit.empg.zeta=0.05")
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, e.g. recipes/demo.yaml")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, e.g. runs/demo")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The folder of the run  [default: runs/<name>]")]


class Index(str, Enum):
    """How a served corpus is searched."""

    bm25 = "bm25"
    tantivy = "tantivy"
    dense = "dense"


class Pooling(str, Enum):
    """How an encoder makes one vector of those of its tokens."""

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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)


@app.command()
def train(
    recipe: RecipeFile,
    changes: Changes = None,
    run: RunOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start anew a run that is there already.")] = False,
) -> None:
    """Train a recipe.

    Warm start, evaluation, learning from reward, evaluation, report. The run's folder gets the resolved recipe,
    metrics, episodes, checkpoints and report.html. A run that was stopped, even by kill -9, goes on with --resume and
    ends as if it had never been stopped.
    """
    resolved = _load(recipe, changes)
    folder = run or _default_run(resolved)
    if resume and force:
        raise typer.BadParameter("--resume goes on with a run and --force starts it anew; choose one")
    if resume:
        _same_recipe(resolved, folder)
    workers = f"{resolved.workers} workers" if resolved.workers > 1 else "one worker"
    print(f"{resolved.name}: {recipe} into {folder}; starting {workers}", flush=True)

    from empg.doctor import check
    from empg.train import train as start

    failed = [finding for finding in check(resolved, folder) if finding.level == "fail"]
    if failed:
        _show(failed, err=True)
        raise typer.Exit(1)
    try:
        start(resolved, folder, resume=resume, force=force, command=shlex.join(["empg", *sys.argv[1:]]))
    except KeyboardInterrupt:
        again = shlex.join(["empg", "train", str(recipe), *(changes or ()), "--run", str(folder), "--resume"])
        typer.echo(f"empg: stopped; go on with: {again}", err=True)
        raise typer.Exit(130) from None


@app.command()
def evaluate(
    run: RunPath,
    checkpoint: Annotated[str | None, typer.Option(help="iter-000040, or start  [default: the newest]")] = None,
    split: Annotated[list[str] | None, typer.Option(help="May be repeated  [default: the recipe's]")] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Tasks per panel  [default: the recipe's]")] = None,
    decoding: Annotated[Decoding, typer.Option(help="How tokens are chosen.")] = Decoding.sampled,
    temperature: Annotated[float | None, typer.Option(min=1e-3, help="Of sampled  [default: the recipe's]")] = None,
) -> None:
    """Measure a run's success.

    The policy plays fixed panels of tasks; the results go into the run's folder, where compare finds them.
    """
    from empg.evaluate import evaluate_run
    from empg.progress import Progress, aligned, rate
    from empg.report.outcome import Rate

    with Progress(0) as progress:

        def stage(name: str, total: int) -> Callable[[int], None]:
            progress.stage(name, total)
            return progress.done

        records = evaluate_run(run, checkpoint, split or None, episodes, decoding.value, temperature, stage)
    rows = [("success (95 % Wilson)", "episodes", "success")]
    for record in records:
        rows.append((f"{record['split']} ({record['decoding']})", str(record["n"]), rate(Rate.of(record))))
        rows += [(f"  {kind}", str(part["n"]), rate(Rate.of(part))) for kind, part in sorted(record["by_type"].items())]
        rows.append((f"  panel {record['panel']}, sha256 {record['panel_sha256'][:12]}", "", ""))
    typer.echo("\n".join(aligned(rows)))
    for record in records:
        failed, broken = record["failed_turns"], record["env_errors"]
        if failed or broken:
            causes = f"{failed} turns needed something from outside that could not be had, {broken} episodes"
            typer.echo(f"{record['split']}: {causes} ended in an environment error; they count as they ended")


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run to compare with.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run in question; may be the same.")],
    split: Annotated[str | None, typer.Option(help="Whose panel  [default: all that both played]")] = None,
    decoding: Annotated[Decoding, typer.Option(help="Which evaluations.")] = Decoding.sampled,
    iteration_a: Annotated[int | None, typer.Option(min=0, help="Which evaluation of A  [default: its last]")] = None,
    iteration_b: Annotated[int | None, typer.Option(min=0, help="Which evaluation of B  [default: its last]")] = None,
) -> None:
    """Compare two runs task by task.

    Both must have played the same panel; other settings of play that differ, like the temperature, are named. To see
    what training did, name a run twice, with --iteration-a 0.
    """
    from empg.progress import aligned
    from empg.report.runfolder import RunFolder
    from empg.report.statistics import Comparison, Paired, shared_splits
    from empg.report.statistics import compare as pair

    a, b = RunFolder.open(run_a), RunFolder.open(run_b)

    def row(name: str, paired: Paired) -> tuple[str, ...]:
        points = f"{100 * paired.difference:+.1f} [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"
        return (
            name, str(paired.n), f"{100 * paired.success_a:.1f} %", f"{100 * paired.success_b:.1f} %", points,
            f"{paired.only_a} / {paired.only_b}", f"{paired.p_value:.3g}",
        )

    def show(split: str, result: Comparison) -> None:
        typer.echo(f"A: {run_a} at iteration {result.iteration_a}\nB: {run_b} at iteration {result.iteration_b}")
        typer.echo(f"panel: {result.panel} ({result.decoding}), sha256 {result.panel_sha256[:12]}")
        heading = ("", "tasks", "A", "B", "B - A, points (95 %)", "only A / only B", "McNemar p")
        parts = [row(f"  {kind}", paired) for kind, paired in result.by_type.items()]
        typer.echo("\n".join(aligned([heading, row(split, result.overall), *parts])))
        if result.apart:
            typer.echo(f"not played alike, so the difference is not of the policies alone: {'; '.join(result.apart)}")

    wanted = [split] if split is not None else shared_splits(a, b, decoding.value)
    if not wanted:
        raise ValueError(f"{run_a} and {run_b} have no {decoding.value} evaluation of the same split")
    for place, name in enumerate(wanted):
        result = pair(a, b, name, decoding.value, iteration_a=iteration_a, iteration_b=iteration_b)
        if place:
            typer.echo("")
        show(name, result)


@app.command()
def report(
    run: RunPath,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Draw a run as one HTML page.

    The page needs no network. It can be drawn while the run is going, too.
    """
    from empg.report.page import build_page
    from empg.report.runfolder import RunFolder

    page = build_page(RunFolder.open(run))
    typer.echo(page)
    if open_:
        typer.launch(page.absolute().as_uri())


@app.command()
def figure(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs, e.g. runs/s0 runs/s1")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.svg", help="Where the figure goes.")],
    title: Annotated[str, typer.Option(help="Written above the plot.")] = "Success while learning",
    label: Annotated[
        list[str] | None, typer.Option(help="Name of a run; once per run, in their order  [default: their seeds]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Whose panel the dots are of  [default: the first]")] = None,
    decoding: Annotated[Decoding, typer.Option(help="Which evaluations.")] = Decoding.sampled,
) -> None:
    """Draw learning curves as an SVG for a page or a paper.

    Lines are the success of the training episodes (thin: every iteration, thick: its running mean), dots are
    evaluations with their 95 % intervals. Several runs lie over one another, usually one recipe under several seeds.
    The file needs nothing else and suits light and dark pages. For example:  empg figure runs/demo --out demo.svg
    """
    from empg.report.figure import draw_curve
    from empg.report.runfolder import RunFolder

    folders = [RunFolder.open(run) for run in runs]
    if label and len(label) != len(folders):
        raise typer.BadParameter(f"--label names every run or none: {len(label)} labels for {len(folders)} runs")
    typer.echo(draw_curve(folders, out, split=split, decoding=decoding.value, labels=label or None, title=title))


@app.command()
def doctor(recipe: RecipeFile, changes: Changes = None, run: RunOption = None) -> None:
    """Say what a recipe lacks here.

    Looks at packages, data, model, memory, disk and cores before any work starts. Ends with exit code 1 if the run
    could not go through.
    """
    resolved = _load(recipe, changes)

    from empg.doctor import check

    findings = check(resolved, run or _default_run(resolved))
    _show(findings)
    failed = sum(finding.level == "fail" for finding in findings)
    if failed:
        typer.echo(f"{recipe} cannot run here: {failed} to mend")
        raise typer.Exit(1)
    typer.echo(f"{recipe} can run here")


@app.command()
def play(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="alfworld, webshop, deepsearch, or a gymnasium id")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its options, e.g. rooms=small max_steps=20")
    ] = None,
    split: Annotated[str, typer.Option(help="Which tasks.")] = "train",
    task: Annotated[int | None, typer.Option(min=0, help="Which of them  [default: any]")] = None,
    expert: Annotated[bool, typer.Option("--expert", help="Watch the expert play.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve the shop to a browser on this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --web; 0 takes a free one.")] = 8000,
    record: Annotated[Path | None, typer.Option(help="Where --web adds finished episodes, as JSON lines.")] = None,
) -> None:
    """Play a world yourself.

    Commands are listed by ? and completed by Tab. Lines can also come from a pipe.
    """
    from empg.play import open_world, show_in_browser
    from empg.play import play as begin

    if web and (task is not None or expert):
        raise typer.BadParameter("--web asks for the task in the browser and has no expert: leave out --task, --expert")
    if record is not None and not web:
        raise typer.BadParameter("--record keeps what is done in the browser: add --web")
    environment = open_world(world, split, options or ())
    try:
        if web:
            show_in_browser(environment, port, record)
        else:
            begin(environment, task, expert=expert)
    finally:
        environment.close()


@app.command("serve-retriever")
def serve_retriever(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help='A file of lines {"id": ..., "contents": ...}')],
    retriever: Annotated[Index, typer.Option(help="How to search.")] = Index.bm25,
    encoder: Annotated[Path | None, typer.Option(help="The folder of a sentence-embedding model, for dense.")] = None,
    query_prefix: Annotated[str, typer.Option(help='What it sees before a query: "query: " for E5.')] = "",
    document_prefix: Annotated[str, typer.Option(help='And before a document: "passage: " for E5.')] = "",
    pooling: Annotated[Pooling | None, typer.Option(help="How it pools  [default: as its folder says]")] = None,
    device: Annotated[str, typer.Option(help="Where it runs, as torch names it.")] = "cpu",
    faiss: Annotated[str | None, typer.Option(help="faiss's index, as HNSW32  [default: compare with all]")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where the index is kept  [default: beside the corpus]")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve a corpus to search agents on this and other machines.

    Answers POST /retrieve {"queries": [...], "topk": 3, "return_scores": true} as Search-R1's server does. The corpus
    is indexed once; from then on it starts at once.
    """
    from empg.environments.deepsearch.options import read_searching
    from empg.environments.deepsearch.retrievers import corpus_file, open_search

    try:
        from empg.environments.deepsearch.retrieval.server import serve
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'empg[server]'") from None
    model = None
    if encoder is not None:
        marks = {"query_prefix": query_prefix, "document_prefix": document_prefix}
        pooled = None if pooling is None else pooling.value
        model = {"folder": str(encoder), **marks, "pooling": pooled, "device": device}
    how = read_searching(retriever.value, model, faiss, None, None if cache is None else str(cache))
    searched, _ = open_search(how, corpus_file(corpus))
    serve(searched, host, port, ready=lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True))


def _load(recipe: Path, changes: list[str] | None) -> Recipe:
    from empg.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    from empg.session import settled  # brings torch, which a wrong recipe need not wait for

    return settled(loaded)


def _default_run(recipe: Recipe) -> Path:
    from empg.recipe import RecipeError

    if Path(recipe.name).name != recipe.name:
        raise RecipeError(f"name: {recipe.name!r} cannot name a folder; say where the run goes with --run")
    return Path("runs") / recipe.name


def _same_recipe(recipe: Recipe, folder: Path) -> None:
    """A run goes on only with the recipe that it began with."""
    from empg.recipe import RecipeError, load_recipe
    from empg.report.runfolder import RunFolder

    begun = load_recipe(RunFolder.open(folder).recipe_path).model_dump(mode="json")
    differing = list(_differences(begun, recipe.model_dump(mode="json")))
    if differing:
        changed = "; ".join(differing[:5])
        raise RecipeError(f"{folder} was begun with another recipe ({changed}); resume with the same one")


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in _differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]


def _show(findings: list[Finding], *, err: bool = False) -> None:
    for finding in findings:
        remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
        typer.echo(f"{finding.level:4}  {finding.text}{remedy}", err=err)

