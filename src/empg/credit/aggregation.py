"""From token losses to one number: what each token weighs in an update.

Weights are made once for a whole update, and loss = sum(weights * token_loss); the losses of micro-batches then add up,
and so do those of workers. (A wrapper that *averages* gradients over W workers, as DDP does, needs the loss times W.)

    token_mean     1 / tokens of the update                               every token alike (DAPO)
    episode_mean   1 / (episodes of the update * tokens of its episode)   every episode alike (GRPO)
    constant       1 / (episodes of the update * constant)                no length bias (Dr.GRPO)

Token vectors are flat: the agent's tokens of many episodes, one after another, no padding. Shape: M tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from empg.credit.checks import require_ids, require_shape
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
    """The weight of each token in an update's loss.

    Args:
        episode: `(M,)` int, the episode of each token; any ids, any order, but all tokens of an episode.
        mode: see the top of this module.
        constant: tokens, for `constant` (Dr.GRPO: the token limit of an episode).
        num_episodes: episodes of the whole update, over all workers; None = the number of different ids here.
        num_tokens: tokens of the whole update, over all workers; None = M.

    Returns:
        `(M,)` float32; over all workers they sum to 1, except under `constant`.

    Raises:
        ValueError: wrong shape, unknown mode, or a `constant` that is missing or not positive.
    """
    require_ids("episode", episode)
    if episode.ndim != 1:
        raise ValueError(f"episode: one id per token, shape (M,), is needed; got {tuple(episode.shape)}")
    segments = segments_of(episode)
    episodes = len(segments.ids) if num_episodes is None else num_episodes
    if mode == "token_mean":
        divisor = torch.full_like(episode, len(episode) if num_tokens is None else num_tokens, dtype=torch.float32)
    elif mode == "episode_mean":
        divisor = episodes * segments.sizes[segments.index].float()
    elif mode == "constant":
        if constant is None or not constant > 0:
            raise ValueError(f"constant: mode='constant' needs a positive number of tokens, got {constant}")
        divisor = torch.full_like(episode, episodes * constant, dtype=torch.float32)
    else:
        raise ValueError(f"mode: {mode!r} is not one of token_mean, episode_mean, constant")
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
    """`sum(token_weights * token_loss)`, for callers that hold a whole update at once.

    Args:
        token_loss: `(M,)` loss of each token.
        episode: see `token_weights`, as all the rest.
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
