"""Muon in the dtype of the weights: an optimizer for the matrices inside a model's layers (Jordan et al., 2024).

torch has a Muon, but it orthogonalises in bfloat16, which a processor without bfloat16 units has to emulate. For the
policy of the demo that takes 560 ms per step instead of the 40 ms here, in addition to 670 ms for forward and backward
(one core, AVX2). Matrices of the same shape are orthogonalised together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from empg.errors import UserError

# The quintic iteration of the original: steep at zero, and close enough to one after five rounds.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_EPS = 1e-7


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate U V^T of the singular value decomposition U S V^T of each matrix, to singular values of 0.7 to 1.2.

    Args:
        matrices: (N, A, B) float32 with A <= B.
    """
    a, b, c = _COEFFICIENTS
    x: Tensor = matrices / matrices.flatten(1).norm(dim=1).clamp(min=_EPS)[:, None, None]
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with an orthogonalised step, of the size of an AdamW step: RMS 0.2 per element, times `lr`.

    The same as `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")`, in the dtype of the weights.

    Raises:
        UserError: a parameter is not a matrix.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim != 2:
                raise UserError(f"Muon: expected matrices, got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without gradient are skipped."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
            for (_, longest), parameters in alike.items():
                steps = orthogonalize(torch.stack([_wide(self._momentum(p, group)) for p in parameters]))
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    oriented = step if parameter.shape[0] <= parameter.shape[1] else step.T
                    parameter.add_(oriented, alpha=-group["lr"] * 0.2 * longest**0.5)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
