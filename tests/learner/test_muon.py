from __future__ import annotations

import copy

import pytest
import torch

from empg.learner.muon import Muon, orthogonalize


def test_singular_values_are_close_to_one() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, 16, 48)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    # The directions are kept: in the basis of the original nothing is off the diagonal.
    inside = u.mT @ result @ vh.mT
    assert torch.allclose(inside, torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2)), atol=1e-4)


def test_a_zero_gradient_changes_no_weight() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 8))
    weight.grad = torch.zeros(4, 8)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(4, 8))


def test_it_steps_as_torchs_muon_does_in_bfloat16() -> None:
    torch.manual_seed(1)
    shapes = [(16, 16), (8, 16), (48, 16), (16, 48)]  # square, wide, tall: grouped by shape and turned
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    starts = [a.detach().clone() for a in ours]
    mine = Muon(ours, lr=0.02, weight_decay=0.05)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        torchs.step()
    for a, b, start in zip(ours, theirs, starts, strict=True):
        moved, apart = (a - start).detach().norm(), (a - b).detach().norm()
        assert float(apart) < 0.03 * float(moved)  # bfloat16 has less than three digits


def test_a_parameter_that_is_not_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Muon: expected matrices, got a parameter of shape \(4,\)"):
        Muon([torch.nn.Parameter(torch.ones(4))], lr=0.1)
