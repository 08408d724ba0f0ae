from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from mcts_core.models.experts import own_experts, tiled_experts, use_tiles
from tests.mcts_core.models_zoo import COMMON, make, settle

MIXTURES = {
    "gpt-oss": lambda: make("gpt-oss-sinks"),
    "deepseek-v3": lambda: make("deepseek-v3-mla"),
    "mixtral": lambda: _made(MixtralConfig(**COMMON, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3-moe": lambda: _made(
        Qwen3MoeConfig(
            **COMMON, head_dim=16, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=16
        )
    ),
}


def _made(config: Any) -> Any:
    torch.manual_seed(0)
    return settle(AutoModelForCausalLM.from_config(config))


def _experts(model: Any) -> Any:
    return next(
        module
        for module in model.modules()
        if hasattr(module, "down_proj") and hasattr(module, "has_gate")
    )


@pytest.mark.parametrize("family", MIXTURES)
def test_tiles_compute_what_the_model_writes_down(family: str) -> None:
    model = MIXTURES[family]()
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode(), own_experts(model):
        expected = model(input_ids=ids).logits
    use_tiles(model)
    with torch.inference_mode():
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-6)
        with own_experts(model):
            assert torch.equal(model(input_ids=ids).logits, expected), "for as long as it is asked"


@pytest.mark.parametrize("family", MIXTURES)
def test_a_row_is_the_same_bits_whatever_else_an_expert_computes(family: str) -> None:
    experts = _experts(MIXTURES[family]())
    torch.manual_seed(1)
    states = torch.randn(40, _width(experts))
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(40)])
    shares = torch.rand(40, 2)
    whole = tiled_experts(experts, states, chosen, shares)
    for rows in ([0], [7, 3], list(range(5, 22)), list(range(39))):
        alone = tiled_experts(experts, states[rows], chosen[rows], shares[rows])
        assert torch.equal(alone, whole[rows])


def _width(experts: Any) -> int:
    """Of the hidden states."""
    weight = experts.gate_up_proj
    return int(weight.shape[1] if experts.is_transposed else weight.shape[2])


def test_a_model_without_experts_stays_as_it_is() -> None:
    model = make("llama")
    use_tiles(model)
    with torch.inference_mode(), own_experts(model):
        assert model(input_ids=torch.tensor([[3, 4]])).logits.isfinite().all()
