"""The notebooks of docs/: they run from the first cell to the last on a short real run, and keep small outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from empg.recipe import parse_recipe
from empg.record.tables import EPISODES
from empg.run.build import resolve
from empg.run.train import train
from tests import ROOT
from tests.packages import importable, install_lamproom

NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
WRONG_CREDIT = ROOT / "docs" / "notebooks" / "wrong_credit.ipynb"
LARGEST = 300_000  # bytes, outputs included

# Lamps instead of a household: a policy that was imitating for seconds wins some episodes of a group and loses others.
RECIPE: dict[str, Any] = {
    "iterations": 3,
    "environment": {"id": "lamproom", "options": {"presses": 3}, "max_steps": 3},
    "policy": {
        "device": "cpu",
        "tiny": {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 64, "vocab_size": 400}
        | {"embedding_std": 0.09},
    },
    "warm_start": {"episodes": 480, "episodes_per_step": 8, "optimizer": "muon", "lr": 0.02},
    "rollout": {"groups": 16, "group_size": 8, "temperature": 1.4, "max_turn_tokens": 16, "max_episode_tokens": 256},
    "evaluation": {"splits": []},
    "loggers": [],
}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("notebooks")
    with importable(folder), pytest.MonkeyPatch.context() as patch:
        install_lamproom(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train(resolve(parse_recipe(RECIPE)), folder / "run")
        yield folder / "run"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def text_of(notebook: Any) -> str:
    """What the cells printed."""
    return "".join(out.text for cell in notebook.cells for out in cell.get("outputs", ()) if "text" in out)


def executed(run: Path) -> Any:
    """The notebook on another run, executed."""
    notebook = read(WRONG_CREDIT)
    first = notebook.cells[1]
    first.source, changed = re.subn(r'Path\("[^"]*"\)', f"Path({str(run)!r})", first.source)
    assert changed == 1
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "docs" / "notebooks")}})
    return client.execute()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
def test_the_notebook_runs_on_a_short_run(short_run: Path) -> None:
    text = text_of(executed(short_run))
    [shared, estimated] = re.search(r"(\d+) of \d+ steps share theirs, and (\d+) have an estimate", text).groups()  # type: ignore[union-attr]
    assert int(shared) > int(estimated) > 0
    assert re.search(r"^  1\. +[123] ", text, re.MULTILINE)
    assert "<- credited" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_without_a_run_the_first_cell_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError) as stopped:
        executed(tmp_path / "nosuch")
    assert f"{tmp_path}/nosuch does not exist: run `make demo` in the repository" in str(stopped.value)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_complete_and_small(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {out.output_type for cell in code for out in cell.outputs} <= {"stream", "display_data"}
    assert path.stat().st_size < LARGEST
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    links = re.findall(r"\]\(([^)#\s]+)", "".join(cell.source for cell in notebook.cells))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_stored_outputs_are_of_the_columns_that_a_run_has_now() -> None:
    assert f"\n{', '.join(EPISODES.names)}\n" in text_of(read(WRONG_CREDIT))


def test_the_stored_outputs_are_of_the_demo() -> None:
    text = text_of(read(WRONG_CREDIT))
    assert text.startswith("seed 0, processor ")
    assert re.findall(r"^ {0,2}(\d+)\. +\d", text, re.MULTILINE) == [str(rank) for rank in range(1, 11)]
    assert not re.search(r"/(?:home|root|tmp)/", json.dumps(read(WRONG_CREDIT)))
