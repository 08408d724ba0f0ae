"""Muon (momentum, orthogonalised by Newton-Schulz; Jordan et al., 2024), batched by shape."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(stack: Tensor, rounds: int = 5) -> Tensor:
    """Newton-Schulz on a stack of matrices [n, rows, columns] -> the same shape, bfloat16."""
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update is orthogonalised; for 2-D parameters only."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.05
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, alike in shapes.items():
                gradients = torch.stack([p.grad for p in alike if p.grad is not None])
                for p in alike:
                    self.state[p].setdefault("momentum", torch.zeros_like(p))
                momenta = [self.state[p]["momentum"] for p in alike]
                torch._foreach_lerp_(momenta, list(gradients.unbind()), 1 - group["momentum"])
                blended = gradients.lerp(torch.stack(momenta), group["momentum"])
                update = orthogonalise(blended).to(blended.dtype)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(alike, 1 - group["lr"] * group["decay"])
                torch._foreach_add_(alike, list(update.unbind()), alpha=-group["lr"] * scale)
