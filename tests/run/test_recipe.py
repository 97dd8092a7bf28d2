"""The recipe of a run is read back whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from empg.errors import UserError
from empg.recipe import dump_recipe, parse_recipe
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder
from empg.run.coupling import measure_entropy
from empg.run.evaluate import evaluate_run
from empg.run.recipe import recipe_of
from empg.run.resume import like_the_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", dump_recipe(parse_recipe({"seed": 7, "algorithm": "gigpo+empg"})))


def test_it_is_that_of_the_run(run: RunFolder) -> None:
    assert recipe_of(run) == parse_recipe({"seed": 7, "algorithm": "gigpo+empg"})


@pytest.mark.parametrize(
    "read",
    [
        recipe_of,
        lambda run: evaluate_run(run.path),
        lambda run: measure_entropy(run.path, lambda name, total: lambda done: None),
        lambda run: like_the_run(parse_recipe({}), run),
    ],
)
@pytest.mark.parametrize(
    ("left", "message"), [("", "expected a mapping, got nothing"), ("evaluation:", "it has no section 'evaluation'")]
)
def test_no_default_takes_the_place_of_a_lost_part(
    run: RunFolder, read: Callable[[RunFolder], object], left: str, message: str
) -> None:
    text = run.recipe_text()
    run.replace_recipe(text[: text.index(left)])
    with pytest.raises(RunFolderError, match=rf"^{run.recipe_path} is damaged: {message}"):
        read(run)


def test_a_wrong_value_is_named_with_the_file(run: RunFolder) -> None:
    run.replace_recipe(run.recipe_text().replace("seed: 7", "seed: x"))
    with pytest.raises(UserError, match=rf"^{run.recipe_path}: seed: "):
        recipe_of(run)
