"""Malformed records are counted by reason, with the place of the first one."""

from __future__ import annotations

from empg.environments.skipped import Skipped


def test_a_summary_has_the_number_and_the_first_place_of_each_reason() -> None:
    skipped = Skipped()
    assert skipped.parts() == []
    for row in range(1, 1_002):
        skipped.add("no text", f"row {row}")
    skipped.add("no id", "row 7")
    assert skipped.parts() == ["1 malformed (no id; first: row 7)", "1,001 malformed (no text; first: row 1)"]
