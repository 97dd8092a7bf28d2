"""TRL: `EMPGTrainer` in the place of `GRPOTrainer`, and our environments as its `rollout_func`. See docs/engines.md."""

from __future__ import annotations

from importlib import metadata, util

from empg.errors import MissingExtraError

if util.find_spec("trl") is None:
    raise MissingExtraError("empg.engines.trl needs the extra 'trl' on Python 3.11 or later: pip install \"empg[trl]\"")
if (_version := metadata.version("trl")).split(".")[:2] != ["1", "16"]:  # the trainer overrides private methods
    raise MissingExtraError(f'trl: expected a version >= 1.16 and < 1.17, got {_version}: pip install "empg[trl]"')

from empg.engines.trl.rollout import EpisodeRollout, environment_reward
from empg.engines.trl.trainer import EMPGConfig, EMPGTrainer

__all__ = ["EMPGConfig", "EMPGTrainer", "EpisodeRollout", "environment_reward"]
