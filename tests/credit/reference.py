"""An independent reference of the method: float64 NumPy and plain loops, written from the equations of the paper.

It shares no code with the package. A batch is a list of episodes, an episode a list of steps, a step a list of
token entropies (nats).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Entropies = list[list[list[float]]]  # [episode][step][token]


@dataclass
class Credit:
    """Per step, episodes one after another, float64."""

    entropy: np.ndarray
    normalised: np.ndarray
    g: np.ndarray
    f_next: np.ndarray
    modulated: np.ndarray
    final: np.ndarray


def empg(
    advantages: list[float],
    entropies: Entropies,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.1,
    eps: float = 1e-8,
    process_rewards: list[list[float]] | None = None,
) -> Credit:
    H = {(i, t): sum(tokens) / len(tokens) for i, steps in enumerate(entropies) for t, tokens in enumerate(steps)}
    lowest, highest = min(H.values()), max(H.values())
    Hn = {step: (h - lowest) / (highest - lowest + eps) for step, h in H.items()}

    mean_exp = sum(math.exp(-k * hn) for hn in Hn.values()) / len(Hn)
    g = {step: math.exp(-k * hn) / mean_exp for step, hn in Hn.items()}
    f_next = {(i, t): math.exp(-k_future * Hn[i, t + 1]) if (i, t + 1) in Hn else 0.0 for i, t in Hn}

    modulated = {(i, t): advantages[i] * g[i, t] + zeta * f_next[i, t] for i, t in Hn}
    if process_rewards is not None:
        modulated = {(i, t): a + process_rewards[i][t] for (i, t), a in modulated.items()}
    mean_modulated = sum(modulated.values()) / len(modulated)
    final = {step: a - mean_modulated for step, a in modulated.items()}

    tables = (H, Hn, g, f_next, modulated, final)
    return Credit(*(np.array(list(table.values()), dtype=np.float64) for table in tables))


def outcome(rewards: list[float], groups: list[int], method: str, eps: float = 1e-6) -> np.ndarray:
    advantages = []
    for i, reward in enumerate(rewards):
        group = [r for r, g in zip(rewards, groups, strict=True) if g == groups[i]]
        others = [r for j, r in enumerate(rewards) if groups[j] == groups[i] and j != i]
        if method == "reinforce":
            advantages.append(reward - np.mean(rewards))
        elif method == "rloo":
            advantages.append(reward - np.mean(others))
        elif method == "grpo":
            advantages.append((reward - np.mean(group)) / (np.std(group, ddof=1) + eps))
        elif method == "dr_grpo":
            advantages.append(reward - np.mean(group))
    return np.array(advantages, dtype=np.float64)


def gigpo(
    rewards: list[list[float]],
    states: list[list[str]],
    groups: list[int],
    weight: float,
    gamma: float,
    divide: bool,
    eps: float = 1e-6,
) -> np.ndarray:
    """Equations 3 to 8 of arXiv 2505.10978; rewards and states are [episode][step]."""

    def relative(value: float, peers: list[float]) -> float:
        deviation = np.std(peers, ddof=1) + eps if divide and len(peers) > 1 else 1.0
        return float((value - np.mean(peers)) / deviation)

    returns = [[sum(gamma ** (u - t) * r[u] for u in range(t, len(r))) for t in range(len(r))] for r in rewards]
    advantages = []
    for i, steps in enumerate(states):
        members = [j for j, group in enumerate(groups) if group == groups[i]]
        outcome = relative(sum(rewards[i]), [sum(rewards[j]) for j in members])
        for t, state in enumerate(steps):
            alike = [returns[j][u] for j in members for u, other in enumerate(states[j]) if other == state]
            advantages.append(outcome + weight * relative(returns[i][t], alike))
    return np.array(advantages, dtype=np.float64)


def aggregate(token_loss: list[float], episode: list[int], mode: str, constant: float = 1.0) -> float:
    losses: dict[int, list[float]] = {}
    for value, i in zip(token_loss, episode, strict=True):
        losses.setdefault(i, []).append(value)
    if mode == "token_mean":
        return sum(token_loss) / len(token_loss)
    if mode == "episode_mean":
        return sum(sum(tokens) / len(tokens) for tokens in losses.values()) / len(losses)
    return sum(sum(tokens) / constant for tokens in losses.values()) / len(losses)


def surrogate(logp: float, old: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    ratio = math.exp(logp - old)
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective
