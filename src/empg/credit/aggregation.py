"""From token losses to one number: the weight of each token in an update.

Weights are computed once for a whole update, and loss = sum(weights * token_loss). The losses of micro-batches then add
up, and so do those of workers. (A wrapper that *averages* gradients over W workers, as DDP does, needs the loss times
W.)

    token_mean     1 / tokens of the update                               all tokens have the same weight (DAPO)
    episode_mean   1 / (episodes of the update * tokens of its episode)   all episodes have the same weight (GRPO)
    constant       1 / (episodes of the update * constant)                no length bias (Dr.GRPO)

Token vectors are flat: the agent tokens of several episodes, one after another, without padding. Shape: M tokens.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from empg.credit.checks import require_choice, require_ids, require_shape, require_vector
from empg.credit.segments import segments_of

Aggregation = Literal["token_mean", "episode_mean", "constant"]


@torch.no_grad()
def token_weights(
    episode: Tensor,
    mode: Aggregation,
    *,
    constant: float | None = None,
    num_episodes: int | None = None,
    num_tokens: int | None = None,
) -> Tensor:
    """Compute the weight of each token in the loss of an update.

    Args:
        episode: `(M,)` int, the episode of each token; any ids, in any order, but with all tokens of each episode.
        mode: see the top of this module.
        constant: tokens, for `constant` (Dr.GRPO: the token limit of an episode).
        num_episodes: episodes of the whole update, over all workers; None = the number of distinct ids here.
        num_tokens: tokens of the whole update, over all workers; None = M.

    Returns:
        `(M,)` float32; over all workers they sum to 1, except under `constant`.

    Raises:
        ValueError: wrong shape, unknown mode, a `constant` that is missing or not positive, or fewer tokens or episodes
            in the whole update than here.
    """
    require_choice("mode", mode, get_args(Aggregation))
    require_ids("episode", episode)
    require_vector("episode", episode, "token", "M")
    segments = segments_of(episode)
    episodes = len(segments.ids) if num_episodes is None else num_episodes
    for name, given, here in (
        ("num_episodes", num_episodes, len(segments.ids)),
        ("num_tokens", num_tokens, len(episode)),
    ):
        if given is not None and given < here:
            raise ValueError(f"{name}: expected at least {here}, the number in `episode`, got {given}")
    if mode == "token_mean":
        divisor = torch.full_like(episode, len(episode) if num_tokens is None else num_tokens, dtype=torch.float32)
    elif mode == "episode_mean":
        divisor = episodes * segments.sizes[segments.index].float()
    else:
        if constant is None or not constant > 0:
            raise ValueError(f"constant: mode='constant' expects a positive number of tokens, got {constant}")
        divisor = torch.full_like(episode, episodes * constant, dtype=torch.float32)
    return 1 / divisor


def aggregate(
    token_loss: Tensor,
    episode: Tensor,
    mode: Aggregation,
    *,
    constant: float | None = None,
    num_episodes: int | None = None,
    num_tokens: int | None = None,
) -> Tensor:
    """Compute `sum(token_weights * token_loss)`, for callers that hold a whole update at once.

    Args:
        token_loss: `(M,)` loss of each token.
        episode: see `token_weights`, as for all other arguments.
        mode: see `token_weights`.
        constant: see `token_weights`.
        num_episodes: see `token_weights`.
        num_tokens: see `token_weights`.

    Returns:
        The 0-d loss.
    """
    require_shape("token_loss", token_loss, episode.shape, of="episode")
    weights = token_weights(episode, mode, constant=constant, num_episodes=num_episodes, num_tokens=num_tokens)
    return (weights * token_loss).sum()
