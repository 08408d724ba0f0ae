"""Loads a checkpoint from a local folder into a resident of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils import logging

from mcts_core.attention import Backend
from mcts_core.engine.resident import Head, Resident
from mcts_core.models.decoder import Decoder
from mcts_core.models.gate import ModelRefused, admit, probe, refusal
from mcts_core.models.graphs import Capture, CudaRecorder
from mcts_core.models.modules import ModuleDecoder
from mcts_core.models.native import NativeDecoder, refusal_of

_log = structlog.get_logger(__name__)


class CheckpointError(ValueError):
    """A checkpoint's files are broken or not all there; the message says which model's and how."""


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
    graph_rows: int = 0,
) -> Resident:
    """Safetensors only, from local files only, and no code of the checkpoint's own.

    `language_head` says whether tokens are drawn from the model; without, it only scores.
    `graph_rows` is the largest step that is to be captured, where backend and device allow it;
    0: none. Raises `AttentionRefused` when the backend cannot compute the model, `OSError` when
    files are missing, `CheckpointError` when weights are broken or missing, `ModelRefused` when
    the model cannot be served.
    """
    attention.check(dtype, block_size)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the server shows its own
    model = _load_model(path, name, language_head=language_head, dtype=dtype)
    model.to(device).eval().requires_grad_(False)
    admit(model, name, attention)
    resident = Resident(
        decoder_of(model, attention, block_size, graph_rows=graph_rows),
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
        decoder=resident.decoder.name,
        cuda_graphs=_graphs(resident.decoder),
        probe=f"{difference:.1e}",
    )
    return resident


def decoder_of(
    model: Any,
    attention: Backend,
    block_size: int,
    *,
    trunks: bool = True,
    graph_rows: int = 0,
) -> Decoder:
    """The fastest way to run an admitted model. Without `trunks` each row reads its whole context
    by itself, shared or not, which is what a benchmark compares with. `graph_rows`: see
    `load_resident`."""
    if attention.library is not None:
        reason = refusal_of(model, attention.library, block_size)
        if reason is None:
            return NativeDecoder(model, attention.library, share=trunks)
        _log.info("not for the compiled kernel", reason=reason)
    device = next(model.parameters()).device
    capture = None
    if graph_rows and attention.tabulate is not None and device.type == "cuda":
        capture = Capture(attention.tabulate, partial(CudaRecorder, device), graph_rows)
    return ModuleDecoder(model, trunks=trunks, capture=capture)


def _graphs(decoder: Decoder) -> str:
    """What the log says of them."""
    if not isinstance(decoder, ModuleDecoder) or decoder.graphs is None:
        return "none"
    return decoder.graphs.failure or f"up to {decoder.graphs.buckets[-1]} rows"


def _load_config(path: Path, name: str, **local: Any) -> Any:
    kind = PreTrainedConfig.get_config_dict(path, local_files_only=True)[0].get("model_type")
    if kind not in CONFIG_MAPPING:
        reason = f"transformers knows no model type {kind!r}, and code of its own is not run"
        raise ModelRefused(refusal(name, reason))
    try:
        return AutoConfig.from_pretrained(path, **local)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path / 'config.json'} of {name} is not valid: {error}") from None


def _load_model(path: Path, name: str, *, language_head: bool, dtype: torch.dtype) -> Any:
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    kind: Any = AutoModelForCausalLM if language_head else AutoModel
    config = _load_config(path, name, **local)
    if type(config) not in (MODEL_FOR_CAUSAL_LM_MAPPING if language_head else MODEL_MAPPING):
        raise ModelRefused(refusal(name, f"{config.model_type} is not a decoder of transformers'"))
    try:
        model, found = kind.from_pretrained(
            path,
            config=config,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **local,
        )
    except SafetensorError as error:
        raise CheckpointError(
            f"the weights of {name} in {path} are not whole safetensors files: {error}"
        ) from None
    # transformers fills what it does not find with random numbers.
    lacking = sorted(found["missing_keys"]) + sorted(key for key, *_ in found["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"the checkpoint of {name} in {path} lacks {len(lacking)} of the weights that its "
            f"config.json asks for, or has them in another shape: {', '.join(lacking[:3])}"
        )
    return model


def end_tokens(path: Path) -> frozenset[int]:
    """The end-of-sequence ids of a checkpoint's generation settings or configuration."""
    try:
        ids = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
    except OSError:
        ids = AutoConfig.from_pretrained(path, local_files_only=True).eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
