"""The hand-written layers give transformers' log-probabilities and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from empg.policy.llama import training
from empg.policy.llama.training import last_hidden
from tests.policy.llama.models import SHAPES, make

IDS = torch.randint(0, 60, (4, 41), generator=torch.Generator().manual_seed(1))
# A long row, a short one, one that is not read at all, and one with a single place. Not in order.
ROWS = torch.tensor([0, 0, 1, 0, 3, 1, 0])
COLUMNS = torch.tensor([39, 0, 5, 17, 3, 2, 18])
LAST_READ = [39, 5, None, 3]


def own(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return model.lm_head(last_hidden(model, ids, ROWS, COLUMNS)).log_softmax(-1)


def theirs(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits[ROWS, COLUMNS].log_softmax(-1)


def gradients(model: LlamaForCausalLM, log_probs: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(2)) / log_probs.numel()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad((weights * log_probs).sum(), parameters), strict=True))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("block", [7, 128])
def test_log_probabilities_and_gradients_are_transformers(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "BLOCK", block)
    model = make(name)
    ours, expected = own(model, IDS), theirs(model, IDS)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    wanted = gradients(model, expected)
    for parameter, gradient in gradients(model, ours).items():
        largest = float(wanted[parameter].abs().max())
        torch.testing.assert_close(gradient, wanted[parameter], atol=1e-5 * max(1.0, largest), rtol=1e-5)


def test_what_follows_the_last_place_of_a_row_is_not_read() -> None:
    model = make("one key for two heads")
    other = IDS.clone()
    for row, last in enumerate(LAST_READ):
        other[row, 0 if last is None else last + 1 :] = 0
    assert torch.equal(own(model, IDS), own(model, other))


def test_without_gradients_the_numbers_are_the_same() -> None:
    model = make("two keys for six heads")
    with torch.no_grad():
        alone = own(model, IDS)
    assert torch.equal(alone, own(model, IDS))
