"""`empg train` on several processes of torchrun, where every episode of the second one fails.

torchrun --nproc-per-node 2 -m tests.engines.trl.failed_rank train RECIPE --engine trl --run FOLDER
"""

from __future__ import annotations

import os
from typing import Any

from empg.__main__ import main
from empg.engines.trl.rollout import EpisodeRollout
from empg.rollout.types import EndReason

play = EpisodeRollout._play


def failing(self: EpisodeRollout, groups: list[int], pool: Any, trainer: Any) -> Any:
    """Play as usual; then the episodes of the second process have failed."""
    states, logprobs = play(self, groups, pool, trainer)
    for state in states:
        if os.environ["RANK"] == "1":
            state.episode.end = EndReason.ENV_ERROR
    return states, logprobs


if __name__ == "__main__":
    EpisodeRollout._play = failing  # type: ignore[method-assign]
    main()
