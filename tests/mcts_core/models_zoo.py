"""Tiny models with random weights, of the families that the engine serves."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from mcts_core.attention import CPU, Backend
from mcts_core.engine.resident import Head, Resident
from mcts_core.models.gate import admit

VOCABULARY = 97
_COMMON: dict[str, Any] = {
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

FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**_COMMON),
    "qwen2": Qwen2Config(**_COMMON),
    "qwen3": Qwen3Config(**_COMMON, head_dim=16),
    "mistral-window": MistralConfig(**_COMMON, sliding_window=7),
    "gemma2-softcap": Gemma2Config(**_COMMON, head_dim=16, sliding_window=7),
    "phi3": Phi3Config(**_COMMON),
    "gpt-oss-sinks": GptOssConfig(
        **_COMMON, head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=7
    ),
}


def make(family: str, *, language_head: bool = True) -> Any:
    """A model of this family in fp32, the same every time."""
    torch.manual_seed(0)
    kind: Any = AutoModelForCausalLM if language_head else AutoModel
    config = type(FAMILIES[family])(**FAMILIES[family].to_dict())
    if family == "gpt-oss-sinks":
        config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    return kind.from_config(config).float().eval().requires_grad_(False)


def seat(
    model: Any,
    *,
    blocks: int = 200,
    block_size: int = 4,
    heads: Any = None,
    attention: Backend = CPU,
) -> Resident:
    """The model behind our attention, with a pool of its own."""
    admit(model, "tiny", attention)
    return Resident(
        model,
        heads=heads or {},
        blocks=blocks,
        block_size=block_size,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


__all__ = ["FAMILIES", "VOCABULARY", "Head", "make", "seat"]
