"""Recorded recipes: the defaults of later versions, and the values that decide the policy before RL."""

from __future__ import annotations

from empg.recipe import parse_recipe
from empg.recipe.recorded import completed, flat, of_the_start


def test_keys_that_an_earlier_version_did_not_have_get_their_defaults() -> None:
    found = completed({"environment": {"options": {"rooms": "small"}}, "rollout": {"groups": 4}})
    assert found["environment"]["options"]["backend"] == "python"
    assert (found["rollout"]["groups"], found["rollout"]["top_p"]) == (4, 1.0)


def test_a_recipe_that_cannot_be_read_is_unchanged() -> None:
    values = {"environment": {"id": "gone/Environment-v0"}, "seed": 3}
    assert completed(values) is values


def test_values_are_flat_and_an_empty_section_is_a_value() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": None}) == {"a.b.c": 1, "a.d": {}, "e": None}


def test_the_start_is_decided_by_what_shapes_the_warm_start() -> None:
    recipe = parse_recipe({"warm_start": {"lr": 1e-3}})
    paths = of_the_start(flat(recipe.model_dump(mode="json")))
    assert {"seed", "workers", "policy.tiny.layers", "warm_start.lr", "rollout.max_episode_tokens"} <= paths.keys()
    assert not {"name", "rollout.groups", "optimizer.lr", "credit.advantage", "loss.kl_coef"} & paths.keys()
    assert of_the_start({"warm_start": None, "seeds": [1]}) == {"warm_start": None}
