"""Loads a checkpoint from a local folder into a resident of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from mcts_core.attention import Backend
from mcts_core.engine.resident import Head, Resident
from mcts_core.models.gate import admit, probe

_log = structlog.get_logger(__name__)


def load_resident(
    path: Path,
    name: str,
    *,
    language_head: bool,
    heads: Mapping[str, Head],
    blocks: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    attention: Backend,
) -> Resident:
    """Safetensors only, from local files only, and no code of the checkpoint's own.

    `language_head` says whether tokens are drawn from the model; without, it only scores.
    Raises `OSError` when files are missing, `ModelRefused` when the model cannot be served.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the server shows its own
    kind = AutoModelForCausalLM if language_head else AutoModel
    model: Any = kind.from_pretrained(
        path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=dtype
    )
    model.to(device).eval().requires_grad_(False)
    admit(model, name, attention)
    resident = Resident(
        model,
        heads=heads,
        blocks=blocks,
        block_size=block_size,
        dtype=dtype,
        device=device,
    )
    difference = probe(model, resident, name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _log.info(
        "model loaded",
        model=name,
        parameters=parameters,
        attention=attention.name,
        probe=f"{difference:.1e}",
    )
    return resident


def end_tokens(path: Path) -> frozenset[int]:
    """The end-of-sequence ids of a checkpoint's generation settings or configuration."""
    try:
        ids = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
    except OSError:
        ids = AutoConfig.from_pretrained(path, local_files_only=True).eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
