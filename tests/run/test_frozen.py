"""Proof of value: three iterations of each shipped recipe give the numbers that were frozen."""

from __future__ import annotations

import json

import pytest

from tests.run.frozen import FROZEN, RECIPES, curve, machine

KNOWN = json.loads(FROZEN.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_short_run_reproduces_its_frozen_curve(recipe: str) -> None:
    """To the last bit on a machine of a known kind; elsewhere the first losses agree as far as rounding allows.

    If a change is meant to change results, `make freeze` renews the curves; say in the commit what changed and why.
    """
    now = curve(recipe)
    if machine() in KNOWN:
        assert now == KNOWN[machine()][recipe]
    else:
        first = [known[recipe]["warm_start"][:3] for known in KNOWN.values()]
        assert any(now["warm_start"][:3] == pytest.approx(losses, rel=1e-3) for losses in first)
