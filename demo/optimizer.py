"""Muon (momentum, orthogonalised by Newton-Schulz; Jordan et al., 2024), batched by shape."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from demo.plan import Plan

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


class Optimizers:
    """Muon for the matrices of the layers, AdamW for all else; one shared schedule."""

    def __init__(self, trunk: nn.Module, others: list[Tensor], plan: Plan) -> None:
        matrices = [p for p in trunk.parameters() if p.ndim == 2 and p.shape[0] < 2000]
        rest = [p for p in trunk.parameters() if p.ndim != 2 or p.shape[0] >= 2000]
        self._both: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=plan.muon_rate),
            torch.optim.AdamW([*rest, *others], lr=plan.adam_rate, betas=(0.9, 0.98)),
        )
        self._rates = (plan.muon_rate, plan.adam_rate)

    def step(self, scale: float) -> None:
        """Apply the gradients with `scale` times the peak rates, and clear them."""
        for optimizer, rate in zip(self._both, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
