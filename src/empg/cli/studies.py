"""The commands about studies: `study` runs one, `results` writes its page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from empg.cli.app import app, expanded


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Study, e.g. recipes/studies/alfworld.yaml")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, their state and an estimate of the time.")
    ] = False,
    runs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the runs  [default: runs/studies/<name>]", parser=expanded),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the results  [default: results/<name>]", parser=expanded),
    ] = None,
) -> None:
    """Compare variants of recipes over several seeds.

    Run every combination with `empg train`, several at a time. Finished runs are skipped and interrupted ones resumed,
    so the same command continues a study that was stopped, even by kill -9. A run that fails is reported, and the
    others continue. The records and evaluations of each finished run are copied into the folder of the results, which
    is small enough to commit and from which `empg results` makes the page. A run that has results there is not run
    again, on any machine.
    """
    from empg.study.plan import load_study, plan

    loaded = load_study(file)
    planned = plan(loaded, file)
    folder = runs or Path("runs") / "studies" / loaded.name
    from empg.study.progress import StudyProgress, listed  # these import torch
    from empg.study.queue import Stopped, make_jobs, run_queue

    target = results or Path("results") / loaded.name
    if dry_run:
        typer.echo("\n".join(listed(loaded, make_jobs(planned, folder, target))))
        return
    try:
        jobs = run_queue(file, planned, folder, target, loaded.parallel, StudyProgress(loaded))
    except Stopped as stopped:
        typer.echo(f"empg: {stopped}; to resume: {shlex.join(['empg', *sys.argv[1:]])}", err=True)
        raise typer.Exit(128 + stopped.signal) from None
    copied = sum(job.state == "finished" for job in jobs)
    typer.echo(f"results of {copied} of {len(jobs)} runs: {target}; make their page with empg results {target}")
    if copied < len(jobs):
        raise typer.Exit(1)


@app.command()
def results(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS", help="Folders of results, e.g. results/alfworld", parser=expanded),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE.md", help="Page to write; its figures go into figures/ beside it.", parser=expanded
        ),
    ] = Path("results.md"),
) -> None:
    """Write the page of one or more studies.

    The page has tables of success with intervals, paired differences, and learning curves. It is made from the
    results alone, without the run folders.
    """
    from empg.study.page import write_page

    written = write_page(folders, out, lambda line: typer.echo(line, err=True))
    typer.echo("\n".join(map(str, written)))
