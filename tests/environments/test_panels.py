"""Panels contain the same tasks in the same order everywhere, and their digest changes when a task changes."""

from __future__ import annotations

import hashlib

import pytest

from empg.environments.panels import make_panel
from empg.recipe import Recipe, parse_recipe
from empg.run.evaluate import panel_of
from tests.lamps import Lamps

FATES = [f"press:{n}" for n in range(1, 31)]
PINNED = (20, 8, 13, 19, 0, 16, 1, 17, 6, 27)


def recipe(episodes: int = 20, **changes: object) -> Recipe:
    environment = {"options": {"rooms": "small"}, **changes}
    return parse_recipe({"environment": environment, "evaluation": {"episodes": episodes}})


def test_a_panel_is_a_fixed_shuffle_of_the_split() -> None:
    panel = make_panel(Lamps(*FATES), 10, "lamps")
    # Pinned: a change of the shuffle makes all earlier success rates incomparable.
    assert panel.tasks == PINNED
    assert panel.task_ids == tuple(f"{task}-{FATES[task]}" for task in PINNED)
    assert (panel.name, panel.split) == ("lamps-10", "train")
    assert panel.sha256 == hashlib.sha256("\n".join(panel.task_ids).encode()).hexdigest()
    assert make_panel(Lamps(*FATES), 10, "lamps") == panel


def test_a_longer_panel_starts_with_the_shorter_one() -> None:
    short, long = (make_panel(Lamps(*FATES), length, "lamps") for length in (10, 20))
    assert long.tasks[:10] == short.tasks
    assert long.sha256 != short.sha256


def test_a_panel_of_a_small_split_has_all_its_tasks() -> None:
    panel = make_panel(Lamps(*FATES), 500, "lamps")
    assert sorted(panel.tasks) == list(range(30))
    assert panel.name == "lamps-30"


def test_the_digest_depends_only_on_the_content_of_the_tasks() -> None:
    panel = make_panel(Lamps(*FATES), 30, "lamps")
    other = make_panel(Lamps(*FATES[:-1], "press:99"), 30, "lamps")
    assert other.tasks == panel.tasks
    assert other.sha256 != panel.sha256
    assert make_panel(Lamps(*FATES, max_steps=2), 30, "other").sha256 == panel.sha256


def test_the_panel_of_a_recipe_depends_on_the_environment_and_not_on_the_run() -> None:
    panel = panel_of(recipe(), "valid_seen")
    assert (panel.name, len(panel.tasks)) == ("alfworld-valid_seen-20", 20)
    again = recipe().model_copy(update={"seed": 7, "iterations": 3, "workers": 2})
    assert panel_of(again, "valid_seen") == panel
    for other in (
        panel_of(recipe(), "valid_unseen"),
        panel_of(recipe(options={"rooms": "full"}), "valid_seen"),
        panel_of(recipe(options={"rooms": "small", "task_types": ["look_at_obj_in_light"]}), "valid_seen"),
    ):
        assert other.sha256 != panel.sha256


def test_a_task_id_that_is_not_utf_8_has_a_digest() -> None:
    assert len({make_panel(Lamps(fate), 1, "lamps").sha256 for fate in ("press:\udcfe", "press:\udcff")}) == 2


@pytest.mark.parametrize("split", ["valid_seen", "valid_unseen"])
def test_a_panel_has_every_task_type(split: str) -> None:
    kinds = {task_id.split("-")[0] for task_id in panel_of(recipe(100), split).task_ids}
    assert len(kinds) == 6
