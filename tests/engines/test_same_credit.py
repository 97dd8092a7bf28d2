"""The same recorded episodes have the same modulated advantages in all engines."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import pytest
import torch

from empg.credit import TokenLayout
from empg.engines.verl.credit import modulate_rows, step_ids_of
from empg.engines.verl.episodes import read_episodes
from empg.learner.assign import assign_credit
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.engines.trl.parts import fixed_episode, small_recipe
from tests.engines.verl.rows import rows_of, scored_episodes

OPTIONS = {"name": "empg", "k": 2.0, "k_future": 0.5, "zeta": 0.03}


def by_every_engine(episodes: list[Episode], *, merged: bool) -> dict[str, torch.Tensor]:
    """The advantages of all written tokens, episode after episode."""
    recipe = small_recipe(credit={"modulation": OPTIONS}, agent={"history": "merged" if merged else "per_turn"})
    assigned = assign_credit(episodes, recipe, Workers())
    rows = rows_of(episodes, merged=merged)
    batch = read_episodes(rows.keys, rows.packed, rows.written, rows.logprobs, rows.entropies)
    recorded, counted = batch.to_rows(assign_credit(batch.episodes, recipe, Workers()))

    # In a job of verl's own, EMPG gets the base advantages of verl: here those of the recipe.
    layout = TokenLayout.of(step_ids_of([None] * len(rows.keys), rows.written, rows.written))
    base = layout.to_tokens(assigned.base_advantages)
    rewards = [episode.reward for episode in episodes for _ in range(1 if merged else len(episode.turns))]
    job = modulate_rows(
        rows.keys,
        base,
        rows.entropies,
        step_ids_of([None] * len(rows.keys), rows.written, rows.written),
        torch.tensor([*rewards, 0.0]),
        OPTIONS,
    )
    return {
        "local": assigned.token_advantages,
        "verl, a recipe": recorded[counted],
        "verl, a job": job.advantages[rows.written.bool()],
    }


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "per_turn"])
def test_the_local_engine_and_verl(merged: bool) -> None:
    found = by_every_engine(scored_episodes(), merged=merged)
    assert len(found["local"].unique()) > 8
    for advantages in found.values():
        torch.testing.assert_close(advantages, found["local"], rtol=0, atol=1e-6)


@pytest.mark.skipif(util.find_spec("trl") is None, reason="trl is not installed: make test-trl runs this test")
@pytest.mark.filterwarnings("default")  # of TRL and transformers about their own names
def test_all_three_engines(tmp_path: Path) -> None:
    from tests.engines.trl.test_trainer import trained

    [seen] = trained(tmp_path, modulation=OPTIONS).seen  # TRL's trainer on the fixed episodes
    episodes = [fixed_episode(number) for number in range(8)]
    for number, episode in enumerate(episodes):
        for step, turn in enumerate(episode.turns):
            turn.entropies = seen["entropy"][number][seen["steps"][number] == step].tolist()
    found = by_every_engine(episodes, merged=True)
    trl = seen["advantages"][seen["steps"] >= 0]
    for advantages in found.values():  # the base advantages differ: TRL adds 1e-4 to the deviation
        torch.testing.assert_close(advantages, trl, rtol=1e-3, atol=1e-3)
