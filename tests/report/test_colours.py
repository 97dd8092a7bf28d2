"""The colours of the charts can be told apart in both schemes, also with a colour vision deficiency."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from tests import ROOT

STYLE = ROOT / "src" / "empg" / "report" / "assets" / "page.css"
# Complete protanopia, deuteranopia and tritanopia in linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
SEEN = {
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(1)


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    relative = TO_XYZ @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SEEN)
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_two_series_never_look_alike(scheme: int, sight: str) -> None:
    palette = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)[scheme]
    series = dict(re.findall(r"--series-(\d): (#[0-9a-f]{6})", palette))
    assert len(series) == 7
    seen = {number: lab(SEEN[sight] @ linear(colour)) for number, colour in series.items()}
    apart = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(seen, 2)}
    assert {pair: distance for pair, distance in apart.items() if distance < 11} == {}  # 2.3 is just noticeable
