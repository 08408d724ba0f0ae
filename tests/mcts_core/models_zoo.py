"""Tiny models with random weights, of the families that the engine serves."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from mcts_core.attention import CPU, Backend
from mcts_core.engine.resident import Head, Resident
from mcts_core.models.gate import admit
from mcts_core.models.graphs import Capture
from mcts_core.models.modules import ModuleDecoder

VOCABULARY = 97
LABELS = 3
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_WINDOW = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "qwen3": Qwen3Config(**COMMON, head_dim=16),
    "mistral-window": MistralConfig(**COMMON, sliding_window=7),
    "gemma2-softcap": Gemma2Config(**COMMON, head_dim=16, sliding_window=7),
    "gemma3": Gemma3TextConfig(**COMMON, head_dim=16, **_WINDOW),
    "phi3": Phi3Config(**COMMON),
    "olmo2": Olmo2Config(**COMMON),
    "gpt-oss-sinks": GptOssConfig(
        **COMMON, **_WINDOW, head_dim=16, num_local_experts=4, num_experts_per_tok=2
    ),
    "deepseek-v3-mla": DeepseekV3Config(  # values are narrower than keys
        **{**COMMON, **_MIXTURE, "num_key_value_heads": 4},
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
        v_head_dim=12,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, eos_token_id=2
    ),
}
CLASSIFIERS: dict[str, Any] = {
    "qwen2-token-classification": AutoModelForTokenClassification,
    "qwen2-sequence-classification": AutoModelForSequenceClassification,
}
"""Critics' trunks and heads, over the configuration of qwen2."""


def make(family: str, *, language_head: bool = True) -> Any:
    """A model of this family in fp32, the same every time."""
    torch.manual_seed(0)
    if family in CLASSIFIERS:
        config, kind = FAMILIES["qwen2"].to_dict() | {"num_labels": LABELS}, CLASSIFIERS[family]
        return settle(kind.from_config(Qwen2Config(**config)))
    kind = AutoModelForCausalLM if language_head else AutoModel
    config = type(FAMILIES[family])(**FAMILIES[family].to_dict())
    if family == "gpt-oss-sinks":
        config.rope_parameters = dict(_ROPE)
    return settle(kind.from_config(config))


def settle(model: Any) -> Any:
    return model.float().eval().requires_grad_(False)


def seat(
    model: Any,
    *,
    blocks: int = 200,
    block_size: int = 4,
    heads: Any = None,
    attention: Backend = CPU,
    capture: Capture | None = None,
) -> Resident:
    """The model behind our attention, with a pool of its own."""
    admit(model, "tiny", attention)
    return Resident(
        ModuleDecoder(model, capture=capture),
        heads=heads or {},
        blocks=blocks,
        block_size=block_size,
        dtype=torch.float32,
        device=next(model.parameters()).device,
    )


__all__ = ["CLASSIFIERS", "COMMON", "FAMILIES", "LABELS", "VOCABULARY", "Head", "make", "seat"]
