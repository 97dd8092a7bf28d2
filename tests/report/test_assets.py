"""The vendored libraries are the published ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests import ROOT
from tests.report.axe import FOLDER as AXE

UPLOT = ROOT / "src" / "empg" / "report" / "assets" / "uplot"
# Of uplot 1.6.32 and axe-core 4.14.1 on npm; `make report-assets` fetches them.
PUBLISHED = {
    UPLOT / "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    UPLOT / "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    UPLOT / "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    AXE / "LICENSE": "af175b9d96ee93c21a036152e1b905b0b95304d4ae8c2c921c7609100ba8df7e",
    AXE / "axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_a_file_of_a_library_is_unchanged(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == PUBLISHED[path]


@pytest.mark.parametrize(
    ("name", "file", "says"),
    [("UPLOT", UPLOT / "uPlot.iife.min.js", "(v{})"), ("AXE", AXE / "axe.min.js", "axe v{}")],
)
def test_the_makefile_fetches_the_versions_that_are_here(name: str, file: Path, says: str) -> None:
    [version] = re.findall(rf"^{name} \?= (.+)$", Path(ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert says.format(version) in file.read_text(encoding="utf-8")[:200]
