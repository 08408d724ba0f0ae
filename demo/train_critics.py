"""Critics of the first searches: heads fitted on the policy's hidden states."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from critics.head import Head
from demo.schedule import schedule
from demo.traces import Reads


@dataclass(frozen=True)
class HeadPlan:
    """How a head is fitted on stored hidden states."""

    width: int = 256
    epochs: int = 12
    rate: float = 1e-3
    batch: int = 2048
    decay: float = 0.05


def first_step_weight(depth: Tensor) -> Tensor:
    """Loss weights [M]: the first step and its choice 3, the second 1.5, all else 1; the ranking
    of first steps decides where a search goes."""
    first, second = (depth == 1) | (depth == -2), (depth == 2) | (depth == -3)
    return 1.0 + 2.0 * first + 0.5 * second


def fit_head(reads: Reads, labels: Tensor, seed: int, plan: HeadPlan) -> Head:
    """Fit an MLP head on stored hidden states against labels [M] in 0..1 (soft ones too)."""
    torch.manual_seed(seed)
    head = Head(reads.hidden.shape[-1], plan.width)
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=plan.rate, weight_decay=plan.decay)
    weights = first_step_weight(reads.depth)
    generator = torch.Generator().manual_seed(seed)
    total = max(1, plan.epochs * -(-len(labels) // plan.batch))
    done = 0
    for _ in range(plan.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in torch.split(order, plan.batch):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * schedule(done / total)
            scores = head.logits(reads.hidden[chosen])
            loss = functional.binary_cross_entropy_with_logits(
                scores, labels[chosen], weights[chosen]
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    head.train(False)
    return head
