"""Proposition 1: the size of an update depends on entropy."""

from __future__ import annotations

import pytest
import torch


def distribution(temperature: float, size: int = 50) -> torch.Tensor:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits / temperature


def squared_score(logits: torch.Tensor) -> torch.Tensor:
    """||grad_z log pi(a)||^2 for each action a, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda z: z.log_softmax(0), logits)
    return jacobian.square().sum(1)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 10.0])
def test_expected_squared_score_is_one_minus_exp_of_minus_renyi_2_entropy(temperature: float) -> None:
    logits = distribution(temperature)
    pi = logits.softmax(0)
    renyi_2 = -pi.square().sum().log()
    torch.testing.assert_close((pi * squared_score(logits)).sum(), 1 - torch.exp(-renyi_2))


def test_sampled_updates_grow_with_the_uncertainty_of_the_policy() -> None:
    generator = torch.Generator().manual_seed(1)
    means = []
    for temperature in (0.05, 0.3, 1.0, 10.0):
        logits = distribution(temperature)
        actions = torch.multinomial(logits.softmax(0), 20_000, replacement=True, generator=generator)
        means.append(squared_score(logits)[actions].mean().item())
        assert means[-1] == pytest.approx(1 - logits.softmax(0).square().sum().item(), abs=0.01)
    assert means == sorted(means)
