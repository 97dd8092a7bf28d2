"""The vendored plotting library is the published one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests import ROOT

UPLOT = ROOT / "src" / "empg" / "report" / "assets" / "uplot"
# Of uplot 1.6.32 on npm; `make report-assets` fetches it.
PUBLISHED = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_of_the_library_is_unchanged(name: str) -> None:
    assert hashlib.sha256((UPLOT / name).read_bytes()).hexdigest() == PUBLISHED[name]


def test_the_makefile_fetches_the_version_that_is_here() -> None:
    [version] = re.findall(r"^UPLOT \?= (.+)$", Path(ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"(v{version})" in (UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8")[:200]
