"""What the records name about the machine and the code."""

from __future__ import annotations

import re

from empg.system.machine import commit, processor
from tests import ROOT


def test_the_processor_has_a_name_of_one_line() -> None:
    assert processor()
    assert processor().isprintable()


def test_the_commit_is_that_of_the_checkout() -> None:
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?" if (ROOT / ".git").exists() else "", commit())
