"""The presets of `algorithm` in a recipe: for each base algorithm the keys that define it.

Every preset sets the same keys, so that nothing of another algorithm is left when a command line changes it. A recipe
overrides single keys. docs/algorithms/ has a page per algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]
"""Values by the path of their key."""

_GRPO: Preset = {
    "credit.advantage": "grpo",
    "credit.drop_zero_variance": False,
    "credit.max_resample": 0,
    "credit.overlong_penalty": 0.0,
    "credit.overlong_ramp": 0.0,
    "loss.ratio": "token",
    "loss.aggregation": "episode_mean",
    "loss.clip_low": 0.2,
    "loss.clip_high": 0.2,
    "loss.kl_coef": 0.0,
}
_DAPO: Preset = {
    "credit.drop_zero_variance": True,
    "credit.max_resample": 3,
    "credit.overlong_penalty": 0.5,  # half the range of the rewards, as in the paper, where they are -1 and 1
    "credit.overlong_ramp": 0.2,  # the paper: 4,096 of 20,480 tokens
    "loss.aggregation": "token_mean",
    "loss.clip_high": 0.28,
}
_GSPO: Preset = {"loss.ratio": "episode", "loss.clip_low": 3e-4, "loss.clip_high": 4e-4}
_BASE: dict[str, Preset] = {
    "reinforce": {**_GRPO, "credit.advantage": "reinforce", "loss.aggregation": "token_mean"},
    "rloo": {**_GRPO, "credit.advantage": "rloo", "loss.aggregation": "constant"},
    "grpo": _GRPO,
    "dr_grpo": {**_GRPO, "credit.advantage": "dr_grpo", "loss.aggregation": "constant"},
    "dapo": {**_GRPO, **_DAPO},
    "gspo": {**_GRPO, **_GSPO},
    "gigpo": {**_GRPO, "credit.advantage": {"name": "gigpo"}},
    "ppo": {**_GRPO, "credit.advantage": {"name": "gae"}, "loss.aggregation": "token_mean"},
}
_MODULATION: dict[str, Preset] = {"": {"credit.modulation": None}, "+empg": {"credit.modulation": {"name": "empg"}}}

PRESETS: dict[str, Preset] = {
    f"{name}{suffix}": {**preset, **modulation}
    for suffix, modulation in _MODULATION.items()
    for name, preset in _BASE.items()
}
"""The presets by name; `<name>+empg` is EMPG over that algorithm."""


def apply_preset(data: dict[str, Any], *, override: bool) -> dict[str, Any]:
    """Return a recipe's mapping with the values of its preset.

    Args:
        data: the mapping. Without an `algorithm`, or with an unknown one, nothing changes.
        override: whether the preset also replaces keys that the recipe sets itself. Where both choose the same
            estimator or rule (`name` of a section), its other options stay.
    """
    name = data.get("algorithm")
    result = dict(data)
    for path, value in PRESETS.get(name, {}).items() if isinstance(name, str) else ():
        section, _, key = path.partition(".")
        inside = result.get(section, {})
        if hasattr(inside, "model_dump"):  # a section that was built in Python: what it sets itself
            inside = inside.model_dump(exclude_unset=True)
        if not isinstance(inside, dict):
            continue
        if key not in inside or (override and not _same_section(path, inside[key], value)):
            result[section] = {**inside, key: dict(value) if isinstance(value, dict) else value}
    return result


def _same_section(path: str, given: Any, value: Any) -> bool:
    unnamed = "empg" if path == "credit.modulation" else None
    chosen = value.get("name") if isinstance(value, dict) else value
    return isinstance(given, dict) and given.get("name", unnamed) == chosen
