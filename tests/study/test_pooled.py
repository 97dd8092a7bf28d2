"""Pairs of variants over several studies."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from empg.recipe import dump_recipe, override_recipe
from empg.record.runfolder import RunFolder
from empg.study.page import write_page
from empg.study.plan import load_study
from empg.study.pooled import PooledRow, pooled_rows
from empg.study.results import Results, keep_study, outcomes, read_results
from tests.record.made_runs import RECIPE, write_run

PLAIN, CENTRED, GIGPO = ["credit.modulation=null"], ["credit.modulation=centred"], ["algorithm=gigpo"]
BOTH = [("valid_seen", "sampled"), ("valid_unseen", "sampled")]
NUMBER = {"grpo": 0, "empg": 100, "centred": 200, "gigpo": 300}

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return the results of a run by its seed, which are written once."""
    folder = tmp_path_factory.mktemp("written")

    @functools.cache
    def written(seed: int) -> Path:
        write_run(folder / "runs" / str(seed), seed=seed, keep_episodes=()).copy_summary(folder / str(seed))
        return folder / str(seed)

    return written


@pytest.fixture
def make(tmp_path: Path, written: Callable[[int], Path]) -> Make:
    """Write the results of a study whose runs depend on the name of the variant and the seed alone.

    `recipe` are changes of the recipe file. `older` are keys that the version which recorded the runs did not have.
    """

    def make(
        name: str,
        seeds: list[int],
        /,
        overrides: tuple[str, ...] = (),
        recipe: tuple[str, ...] = (),
        older: tuple[str, ...] = (),
        **variants: list[str],
    ) -> Path:
        study: dict[str, Any] = {"name": name, "recipes": ["household"], "base": next(iter(variants)), "seeds": seeds}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**study, "variants": variants, "overrides": list(overrides)}, sort_keys=False))
        keep_study(file, tmp_path / name)
        for key in load_study(file).keys:
            shutil.copytree(written(key.seed + NUMBER[key.variant]), tmp_path / name / key.name)
            of_file = yaml.safe_load(RECIPE.format(seed=key.seed, iterations=40))
            changes = [*recipe, *overrides, *variants[key.variant], f"name={key.name}"]
            recorded = yaml.safe_load(dump_recipe(override_recipe(of_file, changes)))
            for path in older:
                section, _, leaf = path.rpartition(".")
                del (recorded[section] if section else recorded)[leaf]
            RunFolder(tmp_path / name / key.name).replace_recipe(yaml.safe_dump(recorded))
        return tmp_path / name

    return make


def found(*folders: Path) -> tuple[list[Results], dict[tuple[str, str], PooledRow]]:
    studies = [read_results(folder) for folder in folders]
    return studies, {(row.variant, row.base): row for row in pooled_rows(studies)}


def test_seeds_of_two_studies_are_one_comparison(make: Make) -> None:
    studies, rows = found(make("a", [0, 1], grpo=PLAIN, empg=[]), make("b", [2], grpo=PLAIN, empg=[]))
    row = rows[("empg", "grpo")]
    assert (row.recipe, row.seeds, row.studies, len(rows)) == ("household", 3, ("a", "b"), 1)
    wins = [
        [outcomes(results.of("household", variant), BOTH).scores.mean(axis=1) for results in studies]
        for variant in ("grpo", "empg")
    ]
    base, variant = (sum(map(sum, of)) / 3 for of in wins)
    assert row.difference.value == pytest.approx(variant - base)
    assert row.learning is not None
    assert row.learning.seeds == 3
    assert row.learning.difference.low < row.learning.difference.value < row.learning.difference.high
    assert row.difference.low <= row.difference.value <= row.difference.high
    assert 0 <= row.improvement.low <= row.improvement.value <= row.improvement.high <= 1


def test_an_algorithm_without_its_base_is_compared_with_that_of_another_study(make: Make) -> None:
    _, rows = found(make("a", [0, 1, 2, 3], grpo=PLAIN, centred=CENTRED), make("b", [1, 2, 3, 4], gigpo=GIGPO))
    # grpo and gigpo are bases, so each variant stands beside both; centred is no base.
    assert {pair: row.seeds for pair, row in rows.items()} == {("gigpo", "grpo"): 3, ("centred", "gigpo"): 3}


def test_pairs_that_one_study_has_are_in_its_own_table_only(make: Make) -> None:
    a, b = make("a", [0, 1], grpo=PLAIN, empg=[], centred=CENTRED), make("b", [0, 1], centred=CENTRED, empg=[])
    assert found(a)[1] == {}
    assert found(a, b)[1] == {}


def test_a_study_may_have_the_runs_of_another(make: Make) -> None:
    a, b = make("a", [0, 1, 2], grpo=PLAIN, centred=CENTRED), make("b", [0, 1, 2], grpo=PLAIN, empg=[])
    assert set(found(a, b)[1]) == set()  # b has both grpo and empg, and centred is no base


def test_pairs_of_two_seeds_are_left_out(make: Make) -> None:
    a, b = make("a", [0], grpo=PLAIN, empg=[]), make("b", [1], grpo=PLAIN, empg=[])
    assert found(a, b)[1] == {}
    assert found(a, b, make("c", [2], grpo=PLAIN, empg=[]))[1][("empg", "grpo")].seeds == 3


def test_each_pair_stands_once_even_if_both_are_bases(make: Make) -> None:
    a, b = make("a", [0, 1], grpo=PLAIN, centred=CENTRED), make("b", [2], centred=CENTRED, grpo=PLAIN)
    assert set(found(a, b)[1]) == {("centred", "grpo")}
    assert set(found(b, a)[1]) == {("grpo", "centred")}


def test_a_variant_is_known_by_its_values_and_not_by_its_name(make: Make) -> None:
    other = ["credit.modulation=null", "loss.clip_high=0.3"]
    _, rows = found(make("a", [0, 1], grpo=PLAIN, empg=[]), make("b", [2], grpo=other, empg=[]))
    assert rows == {}  # grpo of b is another variant, with which empg has one seed in common, in b alone
    _, rows = found(make("a2", [0, 1, 2], grpo=PLAIN, empg=[]), make("c", [0, 1, 2], grpo=other))
    assert set(rows) == {("c: grpo", "grpo"), ("empg", "c: grpo")}


@pytest.mark.parametrize(
    "same",
    [
        ["loss.kl_coef=0.1", "credit.modulation=null"],  # in another order
        ["credit.modulation=null", "loss={kl_coef: 0.1}"],  # in another spelling
        ["loss.kl_coef=0.2", "credit.modulation=null", "loss.kl_coef=0.1"],  # the last of two counts
        ["credit.modulation=null", "loss.kl_coef=1e-1", "loss.clip_low=0.2"],  # a default
        ["algorithm=grpo", "loss.kl_coef=0.1"],  # a preset that sets nothing else
        ["credit.modulation=null", "loss.kl_coef=0.1", "rollout.slots=7", "agent.date=2026-01-05"],  # not the policy
    ],
)
def test_overrides_that_give_the_same_values_are_the_same_variant(make: Make, same: list[str]) -> None:
    first = ["credit.modulation=null", "loss.kl_coef=0.1"]
    _, rows = found(make("a", [0, 1], grpo=first, empg=[]), make("b", [2], grpo=same, empg=[]))
    assert {pair: row.seeds for pair, row in rows.items()} == {("empg", "grpo"): 3}


def test_a_key_that_an_earlier_version_did_not_have_has_its_default_there(make: Make) -> None:
    older = ("loss.entropy_coef", "environment.workers", "policy.lora", "agent.window", "trl")
    a = make("a", [0, 1], grpo=PLAIN, empg=[], older=older)
    assert found(a, make("b", [2], grpo=PLAIN, empg=[]))[1][("empg", "grpo")].seeds == 3
    assert found(a, make("c", [2], grpo=PLAIN, empg=[], recipe=("agent.window=3",)))[1] == {}


def test_a_recipe_that_this_version_cannot_read_is_compared_as_it_is(make: Make) -> None:
    a, b = make("a", [0, 1], grpo=PLAIN, empg=[]), make("b", [2], grpo=PLAIN, empg=[])
    for file in (*a.rglob("recipe.yaml"), *b.rglob("recipe.yaml")):
        file.write_text(file.read_text() + "gone: 2026-01-05\n")
    assert found(a, b)[1][("empg", "grpo")].seeds == 3


def test_an_override_of_all_runs_makes_another_variant(make: Make) -> None:
    a, b = make("a", [0], grpo=PLAIN, empg=[]), make("b", [1], ("workers=2",), grpo=PLAIN, empg=[])
    assert found(a, b)[1] == {}


START = ["warm_start.early_stop=0", "warm_start={early_stop: 0}", "policy.tiny.layers=2", "workers=2",
         "environment.options.rooms=full", "rollout.max_episode_tokens=512", "optimizer.autocast=true"]  # fmt: skip
PLAY = ["rollout.top_p=0.9", "rollout.max_turn_tokens=32"]


@pytest.mark.parametrize("change", [*START, *PLAY])
@pytest.mark.parametrize("by", ["overrides", "recipe"])
def test_runs_that_differ_before_any_training_are_not_compared(make: Make, change: str, by: str) -> None:
    """They start from another policy, or play the panels in another way, whichever file says so."""
    a, b = make("a", [0, 1, 2], grpo=PLAIN, empg=[]), make("b", [0, 1, 2], grpo=PLAIN, gigpo=GIGPO, **{by: (change,)})
    assert found(a, b)[1] == {}


@pytest.mark.parametrize("by", ["overrides", "recipe"])
def test_runs_that_differ_in_their_training_alone_are_compared(make: Make, by: str) -> None:
    a = make("a", [0, 1, 2], grpo=PLAIN, empg=[])
    same = make("c", [0, 1, 2], grpo=PLAIN, gigpo=GIGPO, **{by: ("loss.kl_coef=0.1",)})
    wanted = {("c: grpo", "grpo"), ("gigpo", "grpo"), ("empg", "c: grpo")}
    assert set(found(a, same)[1]) == wanted


def test_runs_on_other_panels_are_not_compared(make: Make) -> None:
    a, b = make("a", [0], grpo=PLAIN, empg=[]), make("b", [1], grpo=PLAIN, empg=[])
    for metrics in b.rglob("metrics.jsonl"):
        metrics.write_text(re.sub(r'("panel_sha256": ?")', r"\1f", metrics.read_text()))
    assert found(a, b)[1] == {}


def test_the_page_of_several_studies_ends_with_them(make: Make, tmp_path: Path) -> None:
    a, b = make("a", [0, 1], grpo=PLAIN, empg=[]), make("b", [2], grpo=PLAIN, empg=[])
    page, *_ = write_page([a, b], tmp_path / "page.md")
    end = page.read_text().partition("## Over all studies")[2]
    row = next(line for line in end.splitlines() if line.startswith("| household"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert (*cells[:4], cells[-1]) == ("household", "empg", "grpo", "3", "a, b")
    alone, *_ = write_page([a], tmp_path / "alone.md")
    assert "Over all studies" not in alone.read_text()
