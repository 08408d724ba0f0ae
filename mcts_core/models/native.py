"""A decoder that runs the compiled kernel: dense rotary models with a gated MLP, on a CPU.

The weights are packed once, when the model is loaded, and the modules' own copies are let go.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from mcts_core.attention.interface import Reads
from mcts_core.kernels import Layer, Library, Model, Step
from mcts_core.kernels.library import CELL, PANEL
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Rows

_FAMILIES = {"llama", "mistral", "qwen2", "qwen3"}


def refusal_of(model: Any, library: Library, block_size: int) -> str | None:
    """Why the kernel cannot run this model; None when it can."""
    config = model.config.get_text_config()
    weight = model.get_input_embeddings().weight
    dim = _trunk(model).layers[0].self_attn.head_dim if config.model_type in _FAMILIES else 0
    inner = getattr(config, "intermediate_size", 0)
    reasons = (
        (config.model_type not in _FAMILIES, f"its type is {config.model_type}"),
        (weight.device.type != "cpu", f"it is on {weight.device}"),
        (weight.dtype not in library.dtypes, f"this CPU's kernel has no {weight.dtype}"),
        (block_size % CELL, f"blocks of {block_size} tokens are no multiple of {CELL}"),
        (dim % CELL, f"its heads' width of {dim} is no multiple of {CELL}"),
        (config.hidden_size % 2, f"its width of {config.hidden_size} is odd"),
        (inner % CELL, f"its MLP's width of {inner} is no multiple of {CELL}"),
        (getattr(config, "hidden_act", None) != "silu", "its MLP is not gated by SiLU"),
    )
    return next((reason for wrong, reason in reasons if wrong), None)


class NativeDecoder:
    """Implements `Decoder`. Used by one thread at a time."""

    def __init__(self, model: Any, library: Library, *, share: bool = True) -> None:
        """`model` is one that `refusal_of` has nothing against. Without `share` each row reads its
        whole context by itself, which is what a benchmark compares with."""
        config = model.config.get_text_config()
        trunk = _trunk(model)
        self.name = library.name
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.vocabulary = int(config.vocab_size)
        self.hidden = int(config.hidden_size)
        self.context_length = int(config.max_position_embeddings)
        self._library = library
        self._share = share
        self._held: list[torch.Tensor] = []
        """All that the kernel reads."""
        self._seen: KVStorage | None = None
        self._storage_version = -1
        embedding = trunk.embed_tokens.weight
        self._dtype: torch.dtype = embedding.dtype
        attention = trunk.layers[0].self_attn
        self._kv_heads, self._dim = int(config.num_key_value_heads), int(attention.head_dim)
        layers = [self._layer(config, layer) for layer in trunk.layers]
        self._layers = (Layer * len(layers))(*layers)
        cosines, sines = _rotations(trunk.rotary_emb, self.context_length)
        language_head = model.get_output_embeddings()
        self._language_head = language_head is not None
        self._model = Model(
            layers=len(layers),
            hidden=self.hidden,
            heads=int(config.num_attention_heads),
            kv_heads=self._kv_heads,
            dim=self._dim,
            intermediate=int(config.intermediate_size),
            vocabulary=self.vocabulary,
            positions=self.context_length,
            bfloat16=self._dtype == torch.bfloat16,
            epsilon=float(trunk.norm.variance_epsilon),
            scaling=float(attention.scaling),
            embedding=self._hold(embedding.detach().contiguous()),
            cosines=self._hold(cosines),
            sines=self._hold(sines),
            norm=self._vector(trunk.norm.weight),
            head=self._weight(language_head.weight) if self._language_head else None,
            layer=self._layers,
        )

    @torch.inference_mode()
    def forward(self, sequences: Sequence[Rows], storage: KVStorage, reads: Reads) -> Computed:
        """Raises `ValueError` for a token id or a position that the model does not have."""
        self._look_at(storage)
        tokens: list[int] = []
        ends: list[int] = []
        starts: list[int] = []
        table: list[int] = []
        rows_at, table_at = [0], [0]
        size = storage.block_size
        for branch, new, start, wanted, _ in sequences:
            first = len(tokens)
            ends.extend([first + end for end in wanted])
            tokens.extend(new)
            starts.append(start)
            table.extend(branch.blocks[: -(-(start + len(new)) // size)])
            rows_at.append(len(tokens))
            table_at.append(len(table))
        hidden = torch.empty((len(ends), self.hidden))
        logits = torch.empty((len(ends), self.vocabulary)) if self._language_head else None
        finite = array("q", bytes(8 * len(ends)))
        numbers = [array("q", each) for each in (tokens, rows_at, starts, table, table_at, ends)]
        ids, rows, start_of, blocks, first_of, keep = (each.buffer_info()[0] for each in numbers)
        step = Step(
            tokens=len(tokens),
            sequences=len(sequences),
            kept=len(ends),
            slots=storage.blocks * size,
            block_size=size,
            threads=torch.get_num_threads(),
            share=self._share,
            ids=ids,
            rows=rows,
            start=start_of,
            table=blocks,
            first=first_of,
            keep=keep,
            states=hidden.data_ptr(),
            logits=None if logits is None else logits.data_ptr(),
            finite=finite.buffer_info()[0],
        )
        self._library.forward(self._model, step)
        reads.read += step.read
        reads.attended += step.attended
        return Computed(hidden, logits, lambda: list(map(bool, finite)))

    def prepare(self, storage: KVStorage) -> None:
        """Nothing: the kernel keeps nothing between steps."""

    def _look_at(self, storage: KVStorage) -> None:
        """Takes note of where the KV is; a pool may be made anew."""
        if self._seen is storage and self._storage_version == storage.version:
            return
        for index, layer in enumerate(self._layers):
            keys, values = storage.tensors(index, self._kv_heads, self._dim, self._dim)
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        self._seen, self._storage_version = storage, storage.version

    def _layer(self, config: Any, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        window = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":
            window = config.sliding_window
        query_norm = getattr(attention, "q_norm", None)
        key_norm = getattr(attention, "k_norm", None)
        return Layer(
            attention_norm=self._vector(layer.input_layernorm.weight),
            mlp_norm=self._vector(layer.post_attention_layernorm.weight),
            qkv=self._weight(torch.cat([each.weight for each in qkv])),
            output=self._weight(attention.o_proj.weight),
            gate_up=self._weight(_interleaved(mlp.gate_proj.weight, mlp.up_proj.weight)),
            down=self._weight(mlp.down_proj.weight),
            qkv_bias=self._bias(
                None if qkv[0].bias is None else torch.cat([each.bias for each in qkv])
            ),
            output_bias=self._bias(attention.o_proj.bias),
            gate_up_bias=self._bias(
                None
                if mlp.gate_proj.bias is None
                else _interleaved(mlp.gate_proj.bias, mlp.up_proj.bias)
            ),
            down_bias=self._bias(mlp.down_proj.bias),
            query_norm=None if query_norm is None else self._vector(query_norm.weight),
            key_norm=None if key_norm is None else self._vector(key_norm.weight),
            window=window or 0,
        )

    def _weight(self, weight: torch.Tensor) -> int:
        """A weight `[outputs, depth]` in panels of 32 outputs; see decoder.cpp."""
        pair = 2 if weight.dtype == torch.bfloat16 else 1
        outputs, depth = weight.shape
        padded = functional.pad(weight.detach(), (0, 0, 0, -outputs % PANEL))
        panels = padded.view(-1, PANEL, depth // pair, pair).transpose(1, 2)
        return self._hold(panels.contiguous())

    def _vector(self, weight: torch.Tensor) -> int:
        return self._hold(weight.detach().float().contiguous())

    def _bias(self, bias: torch.Tensor | None) -> int | None:
        if bias is None:
            return None
        return self._vector(functional.pad(bias.detach(), (0, -bias.shape[0] % PANEL)))

    def _hold(self, tensor: torch.Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()


def _trunk(model: Any) -> Any:
    """The layers with their embeddings and norm, below a language head or without one."""
    return getattr(model, "model", model)


def _interleaved(gates: torch.Tensor, ups: torch.Tensor) -> torch.Tensor:
    """Rows of both in turns of `CELL`: a panel holds gates and the ups that they open."""
    shape = (-1, CELL, *gates.shape[1:])
    return torch.stack([gates.view(shape), ups.view(shape)], dim=1).flatten(0, 2)


def _rotations(rotary: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `[positions, head_dim / 2]` of a model's rotary embedding."""
    angles = torch.outer(torch.arange(positions).float(), rotary.inv_freq.float())
    scale = float(rotary.attention_scaling)
    return (angles.cos() * scale).contiguous(), (angles.sin() * scale).contiguous()
