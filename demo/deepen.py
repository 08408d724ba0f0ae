"""A deeper model that computes what a shallow one does, to be trained on from there.

Function-preserving growth: Chen, Goodfellow and Shlens, "Net2Net", ICLR 2016. A layer is added
after each chosen one, a copy of it whose output projections are zero: at first it adds nothing to
the residual stream.
"""

from collections.abc import Collection

import torch
from transformers import LlamaConfig, LlamaForCausalLM

_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def deepen(model: LlamaForCausalLM, after: Collection[int]) -> LlamaForCausalLM:
    """`model` with a new layer after each of its layers `after` (0 is the first), float32.

    The logits are the same until it is trained. Raises `ValueError` for a layer that is not
    there."""
    count = model.config.num_hidden_layers
    if not set(after) <= set(range(count)):
        raise ValueError(f"layers are 0 to {count - 1}, not {sorted(after)}")
    old = model.state_dict()
    new = {name: value for name, value in old.items() if not name.startswith("model.layers.")}
    depth = 0
    for layer in range(count):
        for added in (False, True) if layer in after else (False,):
            prefix = f"model.layers.{layer}."
            for name in (name for name in old if name.startswith(prefix)):
                part = name.removeprefix(prefix)
                empty = added and part in _OUTPUTS
                value = torch.zeros_like(old[name]) if empty else old[name].clone()
                new[f"model.layers.{depth}.{part}"] = value
            depth += 1
    config = LlamaConfig.from_dict({**model.config.to_dict(), "num_hidden_layers": depth})
    deeper = LlamaForCausalLM(config)
    deeper.load_state_dict(new)
    deeper.set_attn_implementation(model.config._attn_implementation)
    return deeper
