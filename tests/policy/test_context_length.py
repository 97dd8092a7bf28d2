"""The context length of a model is the smallest of its limits, and an error names the one that is exceeded."""

from __future__ import annotations

import pytest
from transformers import MistralConfig, Phi3Config

from empg.policy.context_length import context_limits, longest_context, require_length
from tests.policy.test_trial import SHAPE


@pytest.mark.parametrize(("window", "limit"), [(8, "sliding window"), (32, "positions")])
def test_the_smallest_limit_is_the_longest_context(window: int, limit: str) -> None:
    config = MistralConfig(**{**SHAPE, "max_position_embeddings": 16, "sliding_window": window})
    smallest = min(16, window)
    assert context_limits(config) == {"positions of": 16, "sliding window of": window}
    assert longest_context(config) == smallest
    require_length(config, smallest, "m")
    wanted = rf"exceeds the {limit} of policy\.model=m: expected at most {smallest}, got {smallest + 1}$"
    with pytest.raises(ValueError, match=wanted):
        require_length(config, smallest + 1, "m")


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_longrope_is_capped_at_its_original_length(place: str) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    config = Phi3Config(**{**SHAPE, "max_position_embeddings": 64, "original_max_position_embeddings": 16, place: rope})
    require_length(config, 16, "phi")
    assert longest_context(config) == 16
    with pytest.raises(ValueError, match=r"longrope changes in policy\.model=phi: expected at most 16, got 17$"):
        require_length(config, 17, "phi")
