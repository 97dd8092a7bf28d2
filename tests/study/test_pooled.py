"""Pairs of variants over several studies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from empg.study.page import write_page
from empg.study.plan import load_study
from empg.study.pooled import PooledRow, pooled_rows
from empg.study.results import Results, keep_study, outcomes, read_results
from tests.record.made_runs import write_run

PLAIN, CENTRED, GIGPO = ["credit.modulation=null"], ["credit.modulation=centred"], ["algorithm=gigpo"]
BOTH = [("valid_seen", "sampled"), ("valid_unseen", "sampled")]
NUMBER = {"grpo": 0, "empg": 100, "centred": 200, "gigpo": 300}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the results of a study whose runs depend on the name of the variant and the seed alone."""

    def make(name: str, seeds: list[int], /, overrides: tuple[str, ...] = (), **variants: list[str]) -> Path:
        study: dict[str, Any] = {"name": name, "recipes": ["household"], "base": next(iter(variants)), "seeds": seeds}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**study, "variants": variants, "overrides": list(overrides)}, sort_keys=False))
        keep_study(file, tmp_path / name)
        for key in load_study(file).keys:
            run = write_run(tmp_path / "runs" / name / key.name, seed=key.seed + NUMBER[key.variant])
            run.copy_summary(tmp_path / name / key.name)
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
    assert row.learning.low < row.learning.value < row.learning.high
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


def test_a_variant_is_known_by_its_overrides_and_not_by_its_name(make: Make) -> None:
    other = make("b", [2], grpo=["algorithm=grpo"], empg=[])
    _, rows = found(make("a", [0, 1], grpo=PLAIN, empg=[]), other)
    assert rows == {}  # grpo of b is another variant, with which empg has one seed in common, in b alone
    _, rows = found(make("a2", [0, 1, 2], grpo=PLAIN, empg=[]), make("c", [0, 1, 2], grpo=["algorithm=grpo"]))
    assert set(rows) == {("c: grpo", "grpo"), ("empg", "c: grpo")}


def test_an_override_of_all_runs_makes_another_variant(make: Make) -> None:
    a, b = make("a", [0], grpo=PLAIN, empg=[]), make("b", [1], ("workers=2",), grpo=PLAIN, empg=[])
    assert found(a, b)[1] == {}


@pytest.mark.parametrize("start", ["warm_start.early_stop=0", "warm_start={early_stop: 0}", "policy.tiny.layers=2"])
def test_runs_from_other_start_policies_are_not_compared(make: Make, start: str) -> None:
    a, b = make("a", [0, 1, 2], grpo=PLAIN, empg=[]), make("b", [0, 1, 2], (start,), grpo=PLAIN, gigpo=GIGPO)
    assert found(a, b)[1] == {}
    same = make("c", [0, 1, 2], ("loss.kl_coef=0.1",), grpo=PLAIN, gigpo=GIGPO)
    assert set(found(a, same)[1]) == {("c: grpo", "grpo"), ("gigpo", "grpo"), ("empg", "c: grpo")}


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
