"""The figure of differences: where marks are, what leaves the plot, and what is written beside it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from empg.report.forest import Compared, Difference, Group, draw_differences

SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT = 216, 508  # the edges of the plot


def drawn(path: Path, *rows: Compared, title: str = "group", note: str = "") -> ET.Element:
    groups = [Group(title, list(rows))]
    file = draw_differences(groups, path / "differences.svg", title=title, note=note, series=["base", "control"])
    return ET.fromstring(file.read_text(encoding="utf-8"))


def classed(root: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


def rows_of(root: ET.Element) -> list[ET.Element]:
    """The groups of marks; those of the legend have no tooltip."""
    return [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]


def test_a_difference_that_rounds_to_zero_has_no_minus(tmp_path: Path) -> None:
    root = drawn(tmp_path, Compared("empg", [Difference(-0.0004, -0.0005, 0.1, "")]))
    assert [e.text for e in classed(root, "number")] == ["+0.0 [-0.1, +10.0]"]


def test_a_difference_is_a_mark_with_its_interval_on_the_scale_of_the_axis(tmp_path: Path) -> None:
    root = drawn(tmp_path, Compared("empg", [Difference(0.05, -0.05, 0.1, "empg to grpo, 8 seeds"), None]))
    # The axis goes from the lowest to the highest bound: 15 points over 292 pixels.
    bar, dot = (rows_of(root)[0].find(f"{SVG}{kind}") for kind in ("line", "circle"))
    assert bar is not None
    assert dot is not None
    assert (bar.get("x1"), bar.get("x2"), dot.get("cx")) == ("216.0", "508.0", str(round(LEFT + 292 * 10 / 15, 1)))
    assert classed(root, "zero")[0].get("x1") == str(round(LEFT + 292 * 5 / 15, 1))
    assert bar.get("y1") == dot.get("cy")
    assert [e.text for e in classed(root, "number")] == ["+5.0 [-5.0, +10.0]"]
    assert rows_of(root)[0].findtext(f"{SVG}title") == "empg to grpo, 8 seeds: +5.0 [-5.0, +10.0] points"


def test_what_is_beside_two_has_two_marks_that_do_not_hide_each_other(tmp_path: Path) -> None:
    same = Difference(0.0, -0.01, 0.01, "")
    root = drawn(tmp_path, Compared("empg", [same, same]), Compared("other", [None, same]))
    heights = [float(e.get("y1", "nan")) for e in classed(root, "bar")]
    assert heights[1] - heights[0] == 7
    assert len(set(heights)) == 3
    assert [g.get("class") for g in rows_of(root)] == ["s1", "s2", "s2"]  # the control has its own colour and shape
    assert [len(g.findall(f"{SVG}circle")) for g in rows_of(root)] == [1, 0, 0]


def test_one_ruined_variant_does_not_press_the_others_together(tmp_path: Path) -> None:
    ruined, cut = Difference(-0.5, -0.6, -0.4, "a"), Difference(0.15, 0.05, 0.3, "b")
    root = drawn(tmp_path, Compared("ruined", [ruined]), Compared("good", [cut]))
    gone, kept = rows_of(root)
    assert not gone.findall(f"{SVG}line")
    assert not gone.findall(f"{SVG}circle")
    arrows = [e.get("d", "").split(",")[0] for row in (gone, kept) for e in row.findall(f"{SVG}path")]
    assert arrows == [f"M{LEFT - 6}", f"M{RIGHT + 6}"]
    assert kept.findall(f"{SVG}circle")
    # Nothing is hidden: the numbers are written.
    assert [e.text for e in classed(root, "number")] == ["-50.0 [-60.0, -40.0]", "+15.0 [+5.0, +30.0]"]


def test_the_ticks_are_round_numbers_with_zero_among_them(tmp_path: Path) -> None:
    for low, high, expected in (
        (-0.171, 0.058, ["-15", "-10", "-5", "0", "+5"]),
        (0.0, 0.002, ["-1", "0", "+1"]),
        (-1.0, 1.0, ["-20", "-15", "-10", "-5", "0", "+5", "+10", "+15", "+20"]),
    ):
        root = drawn(tmp_path, Compared("a", [Difference((low + high) / 2, low, high, "")]))
        assert [e.text for e in root.iter(f"{SVG}text") if e.get("text-anchor") == "middle"] == expected


def test_long_and_hostile_names_stay_text_in_their_column(tmp_path: Path) -> None:
    hostile = "</text><script>alert(1)</script>\x1b&"
    one = Difference(0.0, -0.1, 0.1, hostile)
    root = drawn(tmp_path, Compared("b" * 60, [one]), Compared("c" * 26, [one]), title=hostile, note=hostile)
    assert not list(root.iter(f"{SVG}script"))
    assert [e.text for e in classed(root, "group")] == ["</text><script>alert(1)</script>⟦U+001B⟧&"]
    labels = [e for e in classed(root, "name") if e.find(f"{SVG}title") is not None]
    assert [(e.find(f"{SVG}title").tail, e.findtext(f"{SVG}title")) for e in labels] == [  # type: ignore[union-attr]
        ("b" * 25 + "…", "b" * 60),
        ("c" * 26, "c" * 26),
    ]
