"""What would break: a model that computes something else here than by itself would be served."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, MambaConfig

from mcts_core.attention import CPU
from mcts_core.models.gate import ModelRefused, admit, probe
from tests.mcts_core.models_zoo import FAMILIES, make, seat

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(config: Any) -> Any:
    factory: Any = AutoModelForCausalLM
    return factory.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_that_are_served_pass_the_probe(family: str) -> None:
    model = make(family)
    resident = seat(model)
    assert probe(model, resident, family) < 1e-5
    assert resident.pool.held == 0


def test_a_critics_trunk_passes_by_its_hidden_states() -> None:
    model = make("qwen2", language_head=False)
    assert probe(model, seat(model), "critic") < 1e-5


def test_a_recurrent_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelRefused, match="vLLM or SGLang"):
        admit(build(MambaConfig(**SMALL, intermediate_size=48, state_size=4)), "mamba", CPU)


def test_layers_that_are_not_attention_are_named_in_the_refusal() -> None:
    config = Lfm2Config(
        **SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    with pytest.raises(ModelRefused, match=r"conv|recurrent"):
        admit(build(config), "lfm2", CPU)


def test_positions_that_depend_on_the_batch_are_refused() -> None:
    config = LlamaConfig(
        **SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    with pytest.raises(ModelRefused, match="longest row"):
        admit(build(config), "dynamic", CPU)


def test_the_probe_refuses_a_model_that_computes_something_else_here() -> None:
    model = make("llama")
    resident = seat(model)

    def wrong(*arguments: Any, **keywords: Any) -> Any:
        computed = forward(*arguments, **keywords)
        assert computed.logits is not None
        return type(computed)(computed.hidden, computed.logits.roll(1, dims=-1))

    forward = resident.forward
    resident.forward = wrong  # type: ignore[assignment, method-assign]
    with torch.inference_mode(), pytest.raises(ModelRefused, match="differ"):
        probe(model, resident, "llama")
    assert resident.pool.held == 0
