"""The losses and the optimizer against plain formulas."""

import pytest
import torch

from demo.optimizer import Muon, orthogonalise
from demo.schedule import schedule
from demo.train_policy import soft_cross_entropy


def test_soft_cross_entropy_and_its_gradient_match_the_dense_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 30, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.stack([torch.randperm(30)[:4] for _ in range(5)])
    shares = torch.softmax(torch.randn(5, 4), -1)
    loss = soft_cross_entropy(logits, ids, shares)
    (ours,) = torch.autograd.grad(loss * 2, logits)
    dense = torch.zeros(5, 30).scatter_(1, ids, shares)
    plain = -(torch.log_softmax(logits.float(), -1) * dense).sum()
    (theirs,) = torch.autograd.grad(plain * 2, logits)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert torch.allclose(ours, theirs, atol=2e-2)


@pytest.mark.parametrize("shape", [(2, 50, 20), (1, 20, 50)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert values.min() > 0.3
    assert values.max() < 1.5


def test_muon_descends() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = Muon([weight], lr=0.05)
    first = weight.square().sum().item()
    for _ in range(20):
        optimizer.zero_grad()
        torch.autograd.backward(weight.square().sum())
        optimizer.step()
    assert weight.square().sum().item() < first / 2


def test_the_schedule_rises_then_falls_to_zero() -> None:
    rates = [schedule(at / 100) for at in range(101)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] < 0.1
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)
