"""From run folders to committed results, and from these alone to the page with its tables and figures."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from empg.errors import UserError
from empg.record.runfolder import RunFolder
from empg.study.learning import learning_rows, training_success
from empg.study.page import _text, write_page
from empg.study.plan import load_study
from empg.study.results import keep_study, outcomes, read_results
from empg.study.tables import curves, success_rows, type_rows, variant_curves
from tests.record.made_runs import write_run

SEEDS = [0, 1, 2]
STUDY: dict[str, Any] = {
    "name": "made",
    "recipes": ["household.yaml"],
    "base": "grpo",
    "variants": {"grpo": ["credit.modulation=null"], "empg": ["credit.process_reward='a|b`'"]},
    "seeds": SEEDS,
    "target": 0.6,
}
SEEN = [("valid_seen", "sampled")]
BOTH = [*SEEN, ("valid_unseen", "sampled")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study of two variants, whose run folders are gone."""
    folder = tmp_path_factory.mktemp("made")
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    study = load_study(file)
    keep_study(file, folder / "results")
    for key in study.keys:
        run = write_run(folder / "runs" / key.name, seed=key.seed + 100 * (key.variant == "empg"))
        run.copy_summary(folder / "results" / key.name)
    shutil.rmtree(folder / "runs")
    return folder / "results"


class TestFiles:
    def test_a_result_is_a_small_run_folder_without_warm_start_turns_and_weights(self, made: Path) -> None:
        run = made / "household-empg-s1"
        assert sorted(p.name for p in run.iterdir()) == ["evaluations", "metrics.jsonl", "recipe.yaml"]
        kinds = {record["kind"] for record in RunFolder.open(run).read_metrics()}
        assert kinds == {"run", "train", "eval"}
        assert sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) < 250_000

    def test_the_records_and_evaluations_are_unchanged(self, made: Path, tmp_path: Path) -> None:
        original, result = write_run(tmp_path / "run", seed=101), RunFolder.open(made / "household-empg-s1")
        kept = [record for record in original.read_metrics() if record["kind"] != "warm_start"]
        assert result.read_metrics() == kept
        last = kept[-1]
        assert result.read_evaluation(last) == original.read_evaluation(last)

    def test_results_of_another_study_keep_its_file(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        before = (part / "study.yaml").read_bytes()
        other = tmp_path / "other.yaml"
        other.write_text(yaml.safe_dump({**STUDY, "variants": {"grpo": [], "gtpo": []}}))
        with pytest.raises(
            UserError, match=r"has results of 3 runs that .*other\.yaml does not have, household-empg-s0"
        ):
            keep_study(other, part)
        assert (part / "study.yaml").read_bytes() == before
        other.write_text(yaml.safe_dump({**STUDY, "seeds": [*SEEDS, 3]}))  # more runs are no other study
        keep_study(other, part)

    def test_a_folder_without_results_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"is not a folder of results: it has no study\.yaml"):
            read_results(tmp_path)
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
        with pytest.raises(UserError, match="has no results of a run yet"):
            read_results(tmp_path)


class TestIncomplete:
    """What a study may not silently leave out."""

    def test_a_run_without_an_evaluation_is_named(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        (part / "household-empg-s1" / "metrics.jsonl").write_bytes(b"")
        with pytest.raises(UserError, match=r"household-empg-s1 has no evaluation: repeat the run"):
            read_results(part)

    def test_a_file_that_ends_in_the_middle_of_a_line_is_named(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        metrics = part / "household-empg-s1" / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes()[:-9])
        with pytest.raises(UserError, match=r"s1/metrics\.jsonl is cut off in its last line: restore it"):
            read_results(part)

    def test_iterations_without_a_known_success_are_left_out_and_named(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        whole = learning_rows(read_results(part), "household")[0]
        forget(part / "household-grpo-s0", lambda iteration: iteration % 2 == 0)
        half = learning_rows(read_results(part), "household")[0]
        assert half.mean == pytest.approx(whole.mean, abs=0.02)  # not half of it
        page, *_ = write_page([part], tmp_path / "page.md")
        said = "Iterations whose training success is not known are left out: 20 of household-grpo-s0."
        assert page.read_text().splitlines().count(said) == 3  # at two figures and the table

    def test_a_run_without_a_known_success_is_in_no_mean(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        whole = learning_rows(read_results(part), "household")
        forget(part / "household-grpo-s0", lambda iteration: True)
        one, other = learning_rows(read_results(part), "household")
        known = [training_success(run) for run in read_results(made).of("household", "grpo", [1, 2])]
        assert one.mean == pytest.approx(np.mean(np.array(known, dtype=float)))
        assert (other.mean, other.beside["grpo"].seeds) == (whole[1].mean, 2)
        for seed in (1, 2):
            forget(part / f"household-grpo-s{seed}", lambda iteration: True)
        assert [row.mean for row in learning_rows(read_results(part), "household")] == [None, other.mean]
        page, *_ = write_page([part], tmp_path / "page.md")
        assert "| grpo | 3 | unknown |  | 0 of 3 | more |" in page.read_text()

    def test_splits_that_no_run_has_are_named(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        (part / "study.yaml").write_text(yaml.safe_dump({**STUDY, "splits": ["nosuch"]}))
        with pytest.raises(
            UserError, match="there is no panel of the splits nosuch on which all runs of household were"
        ):
            read_results(part)

    def test_a_panel_that_only_some_runs_have_is_in_no_table_and_the_page_says_so(
        self, made: Path, tmp_path: Path
    ) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        drop(part / "household-empg-s1", lambda r: r.get("split") == "valid_unseen")
        assert read_results(part).panels("household") == SEEN
        page, *_ = write_page([part], tmp_path / "page.md")
        wanted = "- in no table: household, valid_unseen (sampled), on which 5 of its 6 runs were evaluated"
        assert wanted in page.read_text().splitlines()

    def test_an_added_evaluation_of_the_end_has_tables_without_what_was_before(
        self, made: Path, tmp_path: Path
    ) -> None:
        """As `empg evaluate RUN --decoding greedy` adds one to every run."""
        part = shutil.copytree(made, tmp_path / "part")
        for key in load_study(part / "study.yaml").keys:
            run = RunFolder.open(part / key.name)
            last = next(r for r in reversed(run.read_metrics()) if r.get("split") == "valid_seen")
            table = run.read_evaluation(last)
            rows = [{name: column[place] for name, column in table.items()} for place in range(last["n"])]
            run.write_evaluation({**last, "decoding": "greedy"}, rows)
            run.append_metrics({**last, "decoding": "greedy"})
        text = write_page([part], tmp_path / "page.md")[0].read_text()
        section = text.partition("### household: valid_seen (greedy)")[2].partition("###")[0]
        assert "| grpo | 3 |" in section
        assert "Before RL" not in section

    def test_an_added_evaluation_with_other_settings_is_left_out(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        for key in load_study(part / "study.yaml").keys:
            run = RunFolder.open(part / key.name)
            last = next(r for r in reversed(run.read_metrics()) if r.get("split") == "valid_seen")
            run.replace_recipe(
                f"{run.recipe_path.read_text()}evaluation: {{temperature: 1.0, episodes: {last['n']}}}\n"
            )
            run.append_metrics({**last, "split": "train", "temperature": 0.5})
        assert read_results(part).panels("household") == BOTH


def forget(run: Path, unknown: Callable[[int], bool]) -> None:
    """Make the training success of some iterations of a run unknown."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        if record["kind"] == "train" and unknown(record["iteration"]):
            record["rollout/success"] = None
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def drop(run: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Remove records of a run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if not unwanted(json.loads(line))]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in kept))


class TestTables:
    def test_a_row_has_the_mean_of_all_seeds_and_tasks_and_the_paired_difference(self, made: Path) -> None:
        results = read_results(made)
        base, other = success_rows(results, {"household": SEEN})
        wins = {v: outcomes(results.of("household", v), SEEN).scores for v in ("grpo", "empg")}
        assert (base.variant, base.seeds, base.beside, base.improvement) == ("grpo", 3, {}, None)
        assert base.mean.value == pytest.approx(wins["grpo"].mean())
        difference = other.beside["grpo"].difference
        assert difference.value == pytest.approx(wins["empg"].mean() - wins["grpo"].mean())
        assert difference.low < difference.value < difference.high

    def test_pairs_have_the_seeds_that_both_have(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.rmtree(part / "household-grpo-s1")
        results = read_results(part)
        base, other = success_rows(results, {"household": SEEN})
        assert (base.seeds, other.seeds, other.beside["grpo"].seeds) == (2, 3, 2)
        a, b = (outcomes(results.of("household", v, [0, 2]), SEEN).scores for v in ("grpo", "empg"))
        difference = other.beside["grpo"].difference
        assert difference.value == pytest.approx(b.mean() - a.mean())

    def test_all_panels_count_every_task_and_keep_types_apart(self, made: Path) -> None:
        found = outcomes(read_results(made).of("household", "grpo"), BOTH)
        assert found.scores.shape == (3, 200)
        assert len(found.columns()) == 12

    def test_types_together_are_the_panel(self, made: Path) -> None:
        results = read_results(made)
        rows = type_rows(results, "household", SEEN)
        columns = outcomes(results.of("household", "grpo"), SEEN).columns()
        sizes = {kind: len(places) for kind, places in columns.items()}
        mean = sum(sizes[kind] * of[0].mean.value for kind, of in rows.items()) / 100
        assert mean == pytest.approx(success_rows(results, {"household": SEEN})[0].mean.value)

    def test_runs_on_different_tasks_cannot_be_compared(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        run = RunFolder.open(part / "household-grpo-s1")
        record = run.read_metrics()[-2]
        rows = run.read_evaluation(record)
        rows["task_id"][0] = "another"
        run.write_evaluation(record, [{name: rows[name][i] for name in rows} for i in range(100)])
        with pytest.raises(UserError, match=r"household-grpo-s0 and .*household-grpo-s1 were evaluated on different"):
            success_rows(read_results(part), {"household": [(record["split"], "sampled")]})

    @pytest.mark.parametrize("change", [{"temperature": 0.3}, {"panel_sha256": "cd" * 32, "panel": "other"}])
    def test_another_evaluation_of_a_run_changes_no_table(
        self, made: Path, tmp_path: Path, change: dict[str, object]
    ) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        run = RunFolder.open(part / "household-grpo-s1")
        own = run.read_metrics()[-2]
        rows = run.read_evaluation(own)
        run.write_evaluation({**own, **change}, [{name: rows[name][0] for name in rows}])
        run.append_metrics({**own, **change})
        tables = [success_rows(read_results(folder), {"household": BOTH}) for folder in (made, part)]
        assert tables[0] == tables[1]

    def test_an_episode_whose_reset_failed_is_a_failure_of_its_task(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        for name in ("household-grpo-s0", "household-empg-s1"):
            run = RunFolder.open(part / name)
            record = run.read_metrics()[-2]
            rows = run.read_evaluation(record)
            rows["task_id"][0] = rows["task_type"][0] = ""
            run.write_evaluation(record, [{name: rows[name][i] for name in rows} for i in range(100)])
        panel = [(record["split"], "sampled")]
        whole, found = (outcomes(read_results(folder).runs, panel) for folder in (made, part))
        assert found.types == whole.types

    def test_a_task_without_a_type_in_one_variant_has_that_of_the_other(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        for seed in SEEDS:  # the first task fails at once in every run of a variant
            run = RunFolder.open(part / f"household-empg-s{seed}")
            record = run.read_metrics()[-2]
            rows = run.read_evaluation(record)
            rows["task_id"][0] = rows["task_type"][0] = ""
            run.write_evaluation(record, [{name: rows[name][i] for name in rows} for i in range(100)])
        panel = [(record["split"], "sampled")]
        whole, found = (success_rows(read_results(folder), {"household": panel}) for folder in (made, part))
        assert whole[1].beside == found[1].beside
        assert list(type_rows(read_results(part), "household", panel)) == list(
            type_rows(read_results(made), "household", panel)
        )

    def test_a_panel_that_not_all_runs_have_is_not_one_of_the_study(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        run = RunFolder.open(part / "household-grpo-s1")
        own = run.read_metrics()[-2]
        run.append_metrics({**own, "decoding": "greedy", "temperature": 0.0})
        assert read_results(part).panels("household") == read_results(made).panels("household") == BOTH

    def test_runs_that_were_evaluated_in_different_ways_cannot_be_compared(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        metrics = part / "household-empg-s2" / "metrics.jsonl"
        metrics.write_text(metrics.read_text().replace('"temperature":1.0', '"temperature":0.5'))
        with pytest.raises(UserError) as caught:
            read_results(part)
        assert "grpo-s0 (iteration 40, temperature 1.0, panel " in str(caught.value)
        assert "empg-s2 (iteration 40, temperature 0.5, panel " in str(caught.value)

    def test_iterations_to_the_target(self, made: Path) -> None:
        rows = learning_rows(read_results(made), "household")
        assert [(row.variant, row.seeds, row.reached) for row in rows] == [("grpo", 3, 3), ("empg", 3, 3)]
        assert all(row.median is not None and 5 <= row.median < 30 for row in rows)

    def test_success_during_training_is_paired_by_seed(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.rmtree(part / "household-grpo-s1")

        def of(variant: str, seed: int) -> float:
            records = RunFolder.open(made / f"household-{variant}-s{seed}").read_metrics()
            return float(np.mean([r["rollout/success"] for r in records if r["kind"] == "train"]))

        grpo, empg = learning_rows(read_results(part), "household")
        assert grpo.beside == {}
        assert (grpo.mean, empg.mean) == pytest.approx(
            (np.mean([of("grpo", 0), of("grpo", 2)]), np.mean([of("empg", seed) for seed in range(3)]))
        )
        assert (empg.seeds, empg.beside["grpo"].seeds) == (3, 2)
        difference = empg.beside["grpo"].difference
        first, second = of("empg", 0) - of("grpo", 0), of("empg", 2) - of("grpo", 2)
        half = 12.7062 * abs(first - second) / 2  # Student's t with one degree of freedom
        middle = (first + second) / 2
        found = (difference.value, difference.low, difference.high)
        assert found == pytest.approx((middle, middle - half, middle + half), rel=1e-4)

    def test_one_seed_of_both_has_no_interval(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        for seed in (0, 1):
            shutil.rmtree(part / f"household-grpo-s{seed}")
        assert learning_rows(read_results(part), "household")[1].beside == {}

    def test_a_curve_is_the_mean_over_seeds_inside_its_band(self, made: Path) -> None:
        for line in curves(read_results(made), "household", *SEEN[0]):
            assert list(line.marks) == [0, 10, 20, 30, 40]
            low, high = np.array([line.band[i] for i in line.smooth]).T
            middle = np.array(list(line.smooth.values()))
            assert len(middle) == 40
            assert ((low <= middle) & (middle <= high)).all()

    def test_a_control_is_a_second_variant_to_compare_with(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.copytree(part / "household-empg-s0", part / "household-centred-s0")
        shutil.copytree(part / "household-empg-s1", part / "household-centred-s1")
        variants = {**STUDY["variants"], "centred": ["credit.modulation=centred"]}
        (part / "study.yaml").write_text(yaml.safe_dump({**STUDY, "variants": variants, "control": "centred"}))
        results = read_results(part)
        for rows in (success_rows(results, {"household": SEEN}), learning_rows(results, "household")):
            of = {row.variant: row.beside for row in rows}
            assert {name: list(beside) for name, beside in of.items()} == {
                "grpo": ["centred"],
                "empg": ["grpo", "centred"],
                "centred": ["grpo"],
            }
            assert (of["empg"]["centred"].seeds, of["empg"]["centred"].difference.value) == (2, 0.0)
            there, back = of["centred"]["grpo"].difference, of["grpo"]["centred"].difference
            assert there.value == pytest.approx(-back.value)
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert "| difference to grpo (points) | difference to centred (points) |" in page
        assert "| +0.0 [+0.0, +0.0] (2 seeds of both) |" in page


class TestPage:
    def test_it_is_made_from_the_results_alone_and_always_the_same(self, made: Path, tmp_path: Path) -> None:
        written = write_page([made], tmp_path / "results.md")
        first = [file.read_bytes() for file in written]
        assert [file.read_bytes() for file in write_page([made], tmp_path / "results.md")] == first
        assert [file.name for file in written[1:]] == [
            "made-household-valid_seen-sampled.svg",
            "made-household-valid_unseen-sampled.svg",
            "made-household-grpo.svg",
            "made-household-empg.svg",
            "differences.svg",
        ]

    def test_a_page_that_cannot_be_written_draws_no_figure(self, made: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^cannot write .*: Is a directory$"):
            write_page([made], tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_text_of_a_file_is_no_link_no_image_and_no_emphasis(self) -> None:
        assert _text("[a](javascript:b) ![c](http://d) *e* a|b `f` <g>\n\x1b\\") == (
            r"\[a\](javascript:b) !\[c\](http://d) \*e\* a\|b 'f' &lt;g&gt; ⟦U+001B⟧\\"
        )

    def test_its_first_figure_has_the_differences_of_its_tables(self, made: Path, tmp_path: Path) -> None:
        page, *figures = write_page([made], tmp_path / "results.md")
        text, drawn = page.read_text(), figures[-1].read_text()
        assert text.index("(figures/differences.svg)") < text.index("## made")
        row = re.search(r"### household: all panels.*?\n\| empg \| 3 \|[^|]*\|[^|]*\| ([^|]*) \|", text, re.DOTALL)
        assert row is not None
        assert f"empg to grpo, 3 seeds: {row[1]} points" in drawn
        assert "made: beside grpo" in drawn

    def test_it_names_command_versions_panels_and_missing_runs(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.rmtree(part / "household-grpo-s1")
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert f"`empg results {part} --out {tmp_path / 'results.md'}`" in page
        assert f"- command: `empg study {part / 'study.yaml'}`" in page
        assert "- runs: 5 of 6 (3 seeds); missing: household-grpo-s1" in page
        assert "- commit: unknown; empg 0.1.0, torch unknown, Python 3.11.2" in page
        assert re.search(
            r"^- panel of household, valid_seen: alfworld-valid_seen, sha256 \w{12}, temperature 1.0$",
            page,
            re.MULTILINE,
        )

    def test_it_names_the_gpu_if_runs_were_on_one(self, made: Path, tmp_path: Path) -> None:
        assert "- GPU:" not in write_page([made], tmp_path / "results.md")[0].read_text()
        part = shutil.copytree(made, tmp_path / "part")
        metrics = part / "household-grpo-s1" / "metrics.jsonl"
        first, *others = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join([json.dumps({**json.loads(first), "gpu": "NVIDIA H100 80GB HBM3"}) + "\n", *others]))
        assert "- GPU: NVIDIA H100 80GB HBM3, none\n" in write_page([part], tmp_path / "results.md")[0].read_text()

    def test_a_difference_of_fewer_seeds_says_so(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.rmtree(part / "household-grpo-s1")
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert re.search(r"^\| empg \| 3 \|.*\] \(2 seeds of both\) \|", page, re.MULTILINE)
        assert re.search(r"^\| [a-z_]+ \| empg \|.*\] \(2 seeds of both\) \|$", page, re.MULTILINE)
        assert re.search(r"^\| empg \| 3 \| [\d.]+% \|.*\] \(2 seeds of both\) \| 3 of 3 \|", page, re.MULTILINE)

    def test_a_run_that_failed_is_named_with_the_reason(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        shutil.rmtree(part / "household-grpo-s1")
        (part / "household-grpo-s1").mkdir()
        (part / "household-grpo-s1" / "failed.txt").write_text("iteration 7: <b>not finite</b>\n")
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert "- runs: 5 of 6 (3 seeds)\n" in page
        assert "- failed, and in no table: household-grpo-s1 (iteration 7: &lt;b&gt;not finite&lt;/b&gt;)\n" in page

    def test_a_run_that_failed_elsewhere_and_is_finished_here_did_not_fail(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        (part / "household-grpo-s1" / "failed.txt").write_text("iteration 7: no space left\n")
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert "- runs: 6 of 6 (3 seeds)\n" in page
        assert "in no table" not in page

    def test_text_of_the_results_is_no_html(self, made: Path, tmp_path: Path) -> None:
        part = shutil.copytree(made, tmp_path / "part")
        for run in map(RunFolder.open, sorted(part.glob("household-*"))):
            for record in run.read_metrics():
                if record["kind"] == "eval":
                    rows = run.read_evaluation(record)
                    rows["task_type"][0] = "<img src=x>"
                    run.write_evaluation(record, [{name: rows[name][i] for name in rows} for i in range(100)])
        page = write_page([part], tmp_path / "results.md")[0].read_text()
        assert "| &lt;img src=x&gt; |" in page
        assert "<img" not in page

    def test_every_row_of_a_table_has_the_cells_of_its_heading(self, made: Path, tmp_path: Path) -> None:
        page = write_page([made], tmp_path / "results.md")[0].read_text()
        for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
        assert "`credit.process_reward='a\\|b''`" in page

    def test_the_figure_has_a_band_per_variant(self, made: Path, tmp_path: Path) -> None:
        figure = write_page([made], tmp_path / "results.md")[1]
        drawn = [element.get("class") for element in ET.parse(figure).iter() if element.tag.endswith("polygon")]
        assert drawn == ["band", "band"]

    def test_a_variant_alone_has_its_band_and_the_dots_of_every_panel(self, made: Path, tmp_path: Path) -> None:
        lines = variant_curves(read_results(made), "household", "empg")
        assert [line.label for line in lines] == ["training episodes", *(f"{split} (sampled)" for split, _ in BOTH)]
        assert [(len(line.smooth), len(line.band), list(line.marks)) for line in lines] == [
            (40, 40, []),
            (0, 0, [0, 10, 20, 30, 40]),
            (0, 0, [0, 10, 20, 30, 40]),
        ]
        page = write_page([made], tmp_path / "results.md")[0].read_text()
        assert "[grpo](figures/made-household-grpo.svg), [empg](figures/made-household-empg.svg)." in page

    def test_two_studies_of_one_name_would_share_their_figures(self, made: Path, tmp_path: Path) -> None:
        other = shutil.copytree(made, tmp_path / "other")
        with pytest.raises(UserError, match="two studies have the name 'made'"):
            write_page([made, other], tmp_path / "docs" / "results.md")
