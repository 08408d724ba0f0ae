"""The experts of a mixture on a CPU: a row's bits do not depend on what else its experts compute.

transformers' own forwards multiply just the rows that are routed to an expert, and a product over
fewer rows takes other kernels, which round differently. Here an expert's rows are filled up to full
tiles, as a step's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mcts_core.attention.interface import MIN_ROWS

_NAME = "mcts_serve_tiles"


def use_tiles(model: Any) -> None:
    """Switches a model on a CPU to `tiled_experts`; one without experts, or with experts of a kind
    that transformers does not dispatch, stays as it is."""
    device = next(model.parameters()).device
    if device.type == "cpu" and model._can_set_experts_implementation():
        ALL_EXPERTS_FUNCTIONS.register(_NAME, tiled_experts)
        model.set_experts_implementation(_NAME)


@contextmanager
def own_experts(model: Any) -> Iterator[None]:
    """Within it the model computes its experts as transformers' classes write them down."""
    if not model._can_set_experts_implementation():
        yield
        return
    before = model.config.get_text_config()._experts_implementation
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def tiled_experts(
    experts: Any, states: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """In the shape that transformers' `ExpertsInterface` calls: `states` `[rows, hidden]`, `chosen`
    `[rows, ways]` experts and their `shares` `[rows, ways]` -> `[rows, hidden]`.

    Source: Shazeer et al., "Outrageously Large Neural Networks", 2017, equation 1.
    """
    rows, ways = chosen.shape
    routed = chosen.reshape(-1)
    found = states.new_empty(rows * ways, states.shape[1])
    for expert in sorted(set(routed.tolist())):
        at = (routed == expert).nonzero()[:, 0]
        padded = functional.pad(at, (0, -len(at) % MIN_ROWS))
        inner = _linear(experts, _UP[experts.has_gate], expert, states[padded // ways])
        inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
        found[at] = _linear(experts, "down_proj", expert, inner)[: len(at)]
    if experts.has_post_expert_norm:
        found = experts.post_expert_norm(found)
    weighted = (found * shares.reshape(-1, 1)).view(rows, ways, -1)
    return weighted.sum(dim=1).to(states.dtype)


_UP = {True: "gate_up_proj", False: "up_proj"}


def _linear(experts: Any, name: str, expert: int, states: torch.Tensor) -> torch.Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return functional.linear(states, weight.mT if experts.is_transposed else weight, bias)
