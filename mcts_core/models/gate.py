"""Which transformers models may be served, and the proof that one computes the same here.

Some architectures run on our attention without any exception and give wrong logits; others refuse.
So a model is admitted by what its configuration says, and then by a probe that compares it with
its own eager forward.
"""

from __future__ import annotations

from typing import Any

import torch

from mcts_core.attention import Backend
from mcts_core.engine.resident import Resident
from mcts_core.kv.branch import Branch, Ledger
from mcts_core.models.decoder import Rows
from mcts_core.models.experts import own_experts, use_tiles

_SERVED_LAYERS = {"full_attention", "sliding_attention"}
_BATCH_ROPES = {"dynamic", "longrope"}
_PROBE_TOKENS = 40
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.4}


class ModelRefused(ValueError):
    """The model cannot be served by this engine; the message says why and what to do."""


def admit(model: Any, name: str, attention: Backend) -> None:
    """Checks a model's configuration and switches it to this attention, and a mixture on a CPU to
    experts that compute full tiles. Raises `ModelRefused`."""
    config = model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        raise ModelRefused(refusal(name, "it keeps a recurrent state, which cannot be forked"))
    if config.is_encoder_decoder:
        raise ModelRefused(refusal(name, "it is an encoder with a decoder, not a decoder alone"))
    layers = set(getattr(config, "layer_types", None) or ()) - _SERVED_LAYERS
    if layers:
        kinds = ", ".join(sorted(layers))
        raise ModelRefused(
            refusal(name, f"it has layers of type {kinds}, which are not causal attention")
        )
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        raise ModelRefused(refusal(name, "its tokens also attend to those that come after them"))
    ropes = _rope_types(config) & _BATCH_ROPES
    if ropes:
        raise ModelRefused(
            refusal(
                name,
                f"its {', '.join(sorted(ropes))} rotary positions depend on the longest row of a "
                "batch",
            )
        )
    attention.register()
    try:
        model.set_attn_implementation(attention.implementation)
    except ValueError as error:
        raise ModelRefused(refusal(name, f"it takes no attention but its own ({error})")) from None
    if config._attn_implementation != attention.implementation:
        raise ModelRefused(refusal(name, "it takes no attention but its own"))
    use_tiles(model)


@torch.inference_mode()
def probe(model: Any, resident: Resident, name: str) -> float:
    """Compares chunked, forked, paged computation with one eager forward of the same tokens.

    Returns the largest difference of logits (of hidden states for a model without a language
    head), relative to their largest magnitude. Raises `ModelRefused` when it is too large.
    """
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    low = min(8, config.vocab_size - 1)
    tokens = torch.randint(low, config.vocab_size, (_PROBE_TOKENS,), generator=generator).tolist()
    ours = config._attn_implementation
    model.set_attn_implementation("eager")
    device = next(model.parameters()).device
    with own_experts(model):
        output = model(input_ids=torch.tensor([tokens], device=device), use_cache=False)
    expected = output.logits[0] if hasattr(output, "logits") else output.last_hidden_state[0]
    model.set_attn_implementation(ours)
    ledger = Ledger()
    trunk = Branch(resident.pool, ledger)
    try:
        found = [_advance(resident, trunk, tokens[:21]), _advance(resident, trunk, tokens[21:30])]
        twig = trunk.fork(27)
        _advance(resident, trunk, tokens[5:9])
        found.append(_advance(resident, twig, tokens[27:39]))
        found.append(_advance(resident, twig, tokens[39:]))
    finally:
        ledger.release_all()
    wanted = expected[[20, 29, 38, 39]].float()
    difference = (torch.stack(found).float() - wanted).abs().max() / wanted.abs().max()
    if not difference < _TOLERANCE[expected.dtype]:
        raise ModelRefused(
            refusal(name, f"its outputs differ from its own by {float(difference):.2g}")
        )
    return float(difference)


def _advance(resident: Resident, branch: Branch, tokens: list[int]) -> torch.Tensor:
    start = branch.length
    copies = branch.grow(len(tokens))
    computed = resident.forward([Rows(branch, tokens, start, [len(tokens) - 1])], copies)
    return (computed.hidden if computed.logits is None else computed.logits)[0]


def refusal(name: str, reason: str) -> str:
    """The message of a `ModelRefused`: which model, why, and what serves it."""
    return (
        f"{name} cannot be served by the tree engine: {reason}. "
        "Serve it with vLLM or SGLang instead."
    )


def _rope_types(config: Any) -> set[str]:
    """One for all layers, or one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    each = [rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    return {kind for inner in each if (kind := inner.get("rope_type")) is not None}
