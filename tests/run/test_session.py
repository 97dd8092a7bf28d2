"""The parts of a run fit together, or it is said in one line that they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.policy.model import Policy
from empg.recipe import parse_recipe
from empg.session import build_policy


def test_a_model_that_reads_less_than_an_episode_is_refused(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)  # it reads 512 tokens
    fits = {"policy": {"model": str(tmp_path), "device": "cpu"}, "rollout": {"max_episode_tokens": 512}}
    build_policy(parse_recipe(fits))
    with pytest.raises(ValueError, match=r"reads 512 tokens; rollout\.max_episode_tokens \(513\) must not be more$"):
        build_policy(parse_recipe({**fits, "rollout": {"max_episode_tokens": 513}}))
