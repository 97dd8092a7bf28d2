"""The command line itself: its options, and the arguments that several commands share."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import empg
from empg.cli.group import Commands

# Work is distributed over processes with one thread each. torch reads these variables when it is imported.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


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


def expanded(path: str) -> Path:
    """Return the path of a run or of an output; `~` is the home folder, as in `--run=~/x`, which no shell expands."""
    if not path:  # it would be the current folder
        raise typer.BadParameter("expected a path, got an empty text")
    return Path(os.path.expanduser(path))


Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Recipe overrides, e.g. seed=3 credit.modulation.zeta=0.05"),
]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, e.g. demo, or a YAML file")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, e.g. runs/demo", parser=expanded)]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="FOLDER", help="Run folder  [default: runs/<name>]", parser=expanded),
]


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
