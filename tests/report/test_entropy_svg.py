"""Means by tenths of the steps, and their figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from empg.report.entropy_svg import Tenth, draw_coupling, draw_entropy_change, tenths

SVG = "{http://www.w3.org/2000/svg}"


def test_tenths_are_cut_in_the_order_of_one_value() -> None:
    found = tenths("h", {"h": [3.0, 1.0, 2.0], "x": [30.0, 10.0, 20.0]})
    assert found == [Tenth(place=n, means={"h": float(n), "x": 10.0 * n}) for n in (1, 2, 3)]
    twenty_five = tenths("h", {"h": [float(value) for value in range(25)]})
    assert [part.means["h"] for part in twenty_five] == [0.5, 3, 5.5, 8, 10.5, 13, 15.5, 18, 20.5, 23]


def drawn(path: Path) -> list[list[float]]:
    """The heights of the points of each line, from 0 at the bottom of the plot to 1 at its top."""
    root = ET.parse(path).getroot()
    rules = [float(line.attrib["y1"]) for line in root.iter(f"{SVG}line") if line.attrib.get("class") == "rule"]
    bottom, top = max(rules), min(rules)
    lines = [line.attrib["points"] for line in root.iter(f"{SVG}polyline")]
    return [[round((bottom - float(p.split(",")[1])) / (bottom - top), 2) for p in line.split()] for line in lines]


def test_expected_and_measured_gradients_have_one_scale(tmp_path: Path) -> None:
    parts = [
        Tenth(place=1, means={"expected": 0.1, "logits": 0.05, "parameters": 2.0}),
        Tenth(place=2, means={"expected": 0.2, "logits": 0.15, "parameters": 8.0}),
    ]
    path = draw_coupling(parts, tmp_path / "new" / "coupling.svg", "a note")
    assert drawn(path) == [[0.5, 1.0], [0.25, 0.75], [0.25, 1.0]]
    assert "a note" in path.read_text()


def test_entropies_are_drawn_in_nats(tmp_path: Path) -> None:
    parts = [
        Tenth(place=1, means={"before": 0.2, "after": 0.3}),
        Tenth(place=2, means={"before": 0.8, "after": 0.4}),
    ]
    path = draw_entropy_change(parts, tmp_path / "change.svg", "")
    assert drawn(path) == [[0.25, 1.0], [0.38, 0.5]]
    labels = [text.text for text in ET.parse(path).getroot().iter(f"{SVG}text")]
    assert [label for label in labels if label and label.startswith("0.")] == ["0.00", "0.20", "0.40", "0.60", "0.80"]


def test_steps_without_a_gradient_are_drawn_at_zero(tmp_path: Path) -> None:
    none = [Tenth(place=1, means={"expected": 0.0, "logits": 0.0, "parameters": 0.0})]
    assert drawn(draw_coupling(none, tmp_path / "a.svg", "")) == [[0.0], [0.0], [0.0]]
    assert drawn(draw_entropy_change([], tmp_path / "b.svg", "")) == []
