"""What would break: a model that computes something else here than by itself would be served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BloomConfig,
    FalconConfig,
    JambaConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    Phi3Config,
    Qwen3NextConfig,
)

from mcts_core.attention import CPU
from mcts_core.models.gate import ModelRefused, admit, probe
from tests.mcts_core.models_zoo import COMMON, FAMILIES, make, seat

ROPE = {"rope_theta": 10000.0}
PLAIN: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2}
REFUSED: dict[str, tuple[Any, str]] = {
    "qwen3-next": (
        Qwen3NextConfig(
            **COMMON,
            **{"head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
            **{"linear_num_key_heads": 2, "linear_num_value_heads": 2},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
            layer_types=["linear_attention", "full_attention"],
        ),
        "recurrent state",
    ),
    "lfm2": (Lfm2Config(**COMMON, layer_types=["conv", "full_attention"]), "layers of type conv"),
    "jamba": (
        JambaConfig(
            **COMMON,
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
            **{"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        ),
        "recurrent state",
    ),
    "mamba2": (
        Mamba2Config(
            **PLAIN,
            **{"num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8},
            **{"n_groups": 1, "chunk_size": 8},
        ),
        "recurrent state",
    ),
    "llama4-chunks": (
        Llama4TextConfig(**COMMON, head_dim=8, num_local_experts=2, intermediate_size_mlp=48),
        "layers of type chunked_attention",
    ),
    "bloom": (BloomConfig(**PLAIN, n_layer=2, n_head=4), "no attention but its own"),
    "falcon": (
        FalconConfig(**PLAIN, num_hidden_layers=2, num_attention_heads=4),
        "no attention but its own",
    ),
    "encoder": (
        BertConfig(**PLAIN, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48),
        "come after them",
    ),
    "encoder-decoder": (
        BartConfig(
            **{"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
            **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
            **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
        ),
        "encoder with a decoder",
    ),
    "dynamic": (
        LlamaConfig(**COMMON, rope_parameters={**ROPE, "rope_type": "dynamic", "factor": 2.0}),
        "dynamic rotary positions",
    ),
    "longrope": (
        Phi3Config(
            **COMMON,
            original_max_position_embeddings=64,
            rope_parameters={
                **{**ROPE, "rope_type": "longrope"},
                **{"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            },
        ),
        "longrope rotary positions",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_that_are_served_pass_the_probe(family: str) -> None:
    model = make(family)
    resident = seat(model)
    assert probe(model, resident, family) < 1e-5
    assert resident.pool.held == 0


def test_a_critics_trunk_passes_by_its_hidden_states() -> None:
    model = make("qwen2", language_head=False)
    assert probe(model, seat(model), "critic") < 1e-5


@pytest.mark.parametrize("family", REFUSED)
def test_what_would_go_wrong_is_refused_with_the_reason_and_the_way_out(family: str) -> None:
    config, reason = REFUSED[family]
    factory: Any = AutoModel if config.is_encoder_decoder else AutoModelForCausalLM
    with pytest.raises(ModelRefused, match=reason) as refused:
        admit(factory.from_config(config).eval(), "this-model", CPU)
    assert str(refused.value).startswith("this-model cannot be served")
    assert "vLLM or SGLang" in str(refused.value)


def test_the_probe_refuses_a_model_that_computes_something_else_here() -> None:
    model = make("llama")
    resident = seat(model)

    def wrong(*arguments: Any, **keywords: Any) -> Any:
        computed = forward(*arguments, **keywords)
        assert computed.logits is not None
        return replace(computed, logits=computed.logits.roll(1, dims=-1))

    forward = resident.forward
    resident.forward = wrong  # type: ignore[assignment, method-assign]
    with torch.inference_mode(), pytest.raises(ModelRefused, match="differ"):
        probe(model, resident, "llama")
    assert resident.pool.held == 0
