"""The learning curve as SVG: parsed as XML, its points read back as the run's numbers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from empg.errors import UserError
from empg.record.runfolder import RunFolder
from empg.report.svg import Line, Mark, draw_curve, draw_lines, running_mean
from tests.record.made_runs import eval_record

MakeRun = Callable[..., RunFolder]
SVG = "{http://www.w3.org/2000/svg}"
TOP, BOTTOM = 92, 368  # pixels of 100% and 0%


def parsed(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8"))


def classed(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in e.get("class", "").split()]


def share(y: str | None) -> float:
    return (BOTTOM - float(y or "nan")) / (BOTTOM - TOP)


def heights(line: ET.Element) -> list[float]:
    return [share(point.split(",")[1]) for point in line.get("points", "").split()]


def test_lines_are_the_success_of_the_rollouts(finished_run: RunFolder, tmp_path: Path) -> None:
    root = parsed(draw_curve([finished_run], tmp_path / "curve.svg"))
    success = [r["rollout/success"] for r in finished_run.read_metrics() if r["kind"] == "train"]
    (group,) = classed(root, "curve")
    raw, smooth = group.findall(f"{SVG}polyline")
    assert heights(raw) == pytest.approx(success, abs=1e-3)
    assert heights(smooth) == pytest.approx(running_mean(success, 5), abs=1e-3)


def test_dots_are_evaluations_and_their_bars_wilson_intervals(finished_run: RunFolder, tmp_path: Path) -> None:
    root = parsed(draw_curve([finished_run], tmp_path / "curve.svg", split="valid_unseen"))
    played = [r for r in finished_run.read_metrics() if r["kind"] == "eval" and r["split"] == "valid_unseen"]
    dots = [share(dot.get("cy")) for dot in classed(root, "dot")]
    assert dots == pytest.approx([r["success"] for r in played], abs=1e-3)
    bars = [(share(bar.get("y1")), share(bar.get("y2"))) for bar in classed(root, "bar")]
    assert [low for low, _ in bars] == pytest.approx([r["low"] for r in played], abs=1e-3)
    assert [high for _, high in bars] == pytest.approx([r["high"] for r in played], abs=1e-3)
    says = [e.text for e in root.iter(f"{SVG}title")]
    assert any(f"{played[-1]['successes']} of 100" in (text or "") for text in says)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 13, 19])
def test_every_dot_is_in_the_plot_and_nearest_to_its_own_iteration(count: int, tmp_path: Path) -> None:
    mark = Mark(0.5, 0.4, 0.6, "")
    lines = [Line(f"{n}", smooth={0: 0.1, 30: 1.0}, marks={0: mark, 30: mark}) for n in range(count)]
    root = parsed(draw_lines(lines, tmp_path / "a.svg", title="", note=""))
    left, right = (float(classed(root, "rule")[0].get(edge, "")) for edge in ("x1", "x2"))
    ends = [float(x) for x in re.findall(r"([\d.]+),", classed(root, "smooth")[-1].get("points", ""))]
    for dot in classed(root, "dot"):
        x, radius = float(dot.get("cx", "")), float(dot.get("r", ""))
        assert left <= x - radius <= x + radius <= right
        assert min(abs(x - end) for end in ends) < (ends[1] - ends[0]) / 60


def test_a_long_title_and_a_long_label_end_inside_the_figure(tmp_path: Path) -> None:
    root = parsed(draw_lines([Line("b" * 500, smooth={0: 0.1})], tmp_path / "a.svg", title="a" * 500, note=""))
    (title,) = classed(root, "title")
    (label,) = classed(root, "name")
    assert (title.text, label.text) == ("a" * 75 + "…", "b" * 87 + "…")
    assert root.findtext(f"{SVG}title") == "a" * 500


def test_runs_of_different_recipes_are_not_told_apart_by_their_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"s{seed}", seed=seed, iterations=2, every=2, keep_episodes=()) for seed in range(2)]
    values = runs[0].recipe_values()
    runs[0].replace_recipe(json.dumps({**values, "algorithm": "gigpo"}))
    root = parsed(draw_curve(runs, tmp_path / "curve.svg"))
    assert [e.text for e in classed(root, "name")] == ["s0", "s1"]


def test_a_long_legend_moves_the_plot_down_and_no_two_lines_look_alike(tmp_path: Path) -> None:
    lines = [Line(f"a variant of some length {n}", smooth={0: 0.1, 10: 1.0}) for n in range(14)]
    root = parsed(draw_lines(lines, tmp_path / "many.svg", title="many", note=""))
    names = [float(e.get("y", "nan")) for e in classed(root, "name")]
    moved = int(root.findall(f"{SVG}g")[-1].get("transform", "").removeprefix("translate(0 ").removesuffix(")"))
    assert max(names) < TOP + moved
    assert int(root.get("height", "0")) == 448 + moved
    assert len({e.get("class") for e in classed(root, "curve")}) == 14
    few = parsed(draw_lines(lines[:3], tmp_path / "few.svg", title="few", note=""))
    assert few.get("height") == "448"
    assert not [e for e in few.iter() if e.get("transform")]


def test_without_a_split_the_first_that_was_evaluated_is_drawn(finished_run: RunFolder, tmp_path: Path) -> None:
    first = next(r["split"] for r in finished_run.read_metrics() if r["kind"] == "eval")
    default, named = (draw_curve([finished_run], tmp_path / f"{i}.svg", split=s) for i, s in enumerate((None, first)))
    assert default.read_text(encoding="utf-8") == named.read_text(encoding="utf-8")


def test_seeds_lie_over_one_another_in_their_own_colours(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"s{seed}", seed=seed, iterations=6, every=3, keep_episodes=()) for seed in range(3)]
    root = parsed(draw_curve(runs, tmp_path / "figures" / "curve.svg"))
    assert [e.text for e in classed(root, "name")] == ["seed 0", "seed 1", "seed 2"]
    assert [e.get("class") for e in classed(root, "curve")] == ["curve c1", "curve c2", "curve c3"]
    first = [group.findall(f".//{SVG}circle")[0].get("cx") for group in classed(root, "dots")]
    assert len(set(first)) == 3  # side by side, or one would hide the other


def test_the_figure_is_the_same_every_time(finished_run: RunFolder, tmp_path: Path) -> None:
    a, b = (draw_curve([finished_run], tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert a == b


def test_it_carries_its_colours_for_light_and_dark_pages_and_asks_for_nothing(
    finished_run: RunFolder, tmp_path: Path
) -> None:
    text = draw_curve([finished_run], tmp_path / "curve.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the SVG namespace
    assert "<script" not in text


def test_hostile_labels_stay_text(finished_run: RunFolder, tmp_path: Path) -> None:
    hostile = "</text><script>alert(1)</script>&"
    root = parsed(draw_curve([finished_run], tmp_path / "curve.svg", labels=[hostile], title=hostile))
    assert [e.text for e in classed(root, "name")] == [hostile]
    assert not list(root.iter(f"{SVG}script"))


def test_control_characters_are_shown_and_the_file_stays_xml(finished_run: RunFolder, tmp_path: Path) -> None:
    hostile = "a\x01\x1b[31mb\ufffe"
    root = parsed(draw_curve([finished_run], tmp_path / "curve.svg", labels=[hostile], title=hostile))
    assert [e.text for e in classed(root, "name")] == ["a⟦U+0001⟧⟦U+001B⟧[31mb⟦U+FFFE⟧"]


def test_a_run_that_has_only_one_of_the_two_is_drawn(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "seed: 0\n")
    run.append_metrics({"kind": "train", "iteration": 1, "rollout/success": 0.5})
    root = parsed(draw_curve([run], tmp_path / "curve.svg"))
    assert (len(classed(root, "raw")), len(classed(root, "dot"))) == (1, 0)
    assert [e.text for e in classed(root, "name")] == ["run"]  # no run record: the folder's name
    [lone] = classed(root, "lone")  # a line of one point would show nothing
    assert share(lone.get("cy")) == pytest.approx(0.5, abs=1e-3)
    assert root.findtext(f"{SVG}desc") == "lines: training episodes, mean over 5 iterations"


def test_runs_of_one_seed_have_the_names_of_their_folders(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(name, iterations=2, every=2, keep_episodes=()) for name in ("d", "de")]
    root = parsed(draw_curve(runs, tmp_path / "curve.svg"))
    assert [e.text for e in classed(root, "name")] == ["d", "de"]
    with pytest.raises(UserError, match="is named 2 times"):
        draw_curve([runs[0], runs[0]], tmp_path / "curve.svg", labels=["a", "b"])


def test_a_split_or_decoding_without_evaluations_is_an_error(finished_run: RunFolder, tmp_path: Path) -> None:
    there = r"choose another split or decoding: valid_seen \(sampled\), valid_unseen \(sampled\)"
    for split, decoding, wrong in (("test", "sampled", "test"), (None, "greedy", "any split")):
        with pytest.raises(UserError, match=rf"on {wrong} \({decoding}\); {there}"):
            draw_curve([finished_run], tmp_path / "curve.svg", split=split, decoding=decoding)
    never = RunFolder.create(tmp_path / "run", "seed: 0\n")
    never.append_metrics({"kind": "train", "iteration": 1, "rollout/success": 0.5})
    with pytest.raises(UserError, match=r"on test \(sampled\); run empg evaluate first"):
        draw_curve([never], tmp_path / "curve.svg", split="test")
    greedy = RunFolder.create(tmp_path / "greedy", "seed: 0\n")
    greedy.append_metrics(eval_record(0, decoding="greedy"))
    with pytest.raises(UserError, match=r"on any split \(sampled\); .*: valid_seen \(greedy\)"):
        draw_curve([greedy], tmp_path / "curve.svg")
    assert len(classed(parsed(draw_curve([greedy], tmp_path / "curve.svg", decoding="greedy")), "dot")) == 1


@pytest.mark.parametrize("labels", [None, ["one"]])
def test_nothing_to_draw_is_an_error_that_says_so(tmp_path: Path, labels: Any) -> None:
    run = RunFolder.create(tmp_path / "run", "seed: 0\n")
    with pytest.raises(ValueError, match=r"nothing to draw: .* any split \(sampled\) in .*run"):
        draw_curve([run], tmp_path / "curve.svg", labels=labels)
    assert not (tmp_path / "curve.svg").exists()


def test_labels_must_fit_the_runs(finished_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1 runs and labels="):
        draw_curve([finished_run], tmp_path / "curve.svg", labels=["a", "b"])
    with pytest.raises(ValueError, match="got 0 runs"):
        draw_curve([], tmp_path / "curve.svg")


def test_a_place_that_cannot_be_written_is_named(finished_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*curve\.svg: (Not a directory|File exists)"):
        draw_curve([finished_run], tmp_path / "file" / "curve.svg")


def test_running_mean_by_hand() -> None:
    assert running_mean([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert running_mean([], 5) == []
