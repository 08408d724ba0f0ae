"""Models with random weights: their throughput is that of trained ones of the same shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CONTEXT_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2 with tied embeddings."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def config(self) -> Qwen2Config:
        """Without an end token: every request gets all the tokens that it asks for."""
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )

    @property
    def parameters(self) -> int:
        """Weights that every token is multiplied with; the tied embedding is the language head."""
        kv = self.hidden * self.kv_heads // self.heads
        layer = 2 * self.hidden * (self.hidden + kv) + 3 * self.hidden * self.mlp
        return self.layers * layer + self.vocabulary * self.hidden

    def kv_bytes(self, itemsize: int) -> int:
        """Bytes of one token's keys and values in one layer."""
        return 2 * self.kv_heads * (self.hidden // self.heads) * itemsize


SHAPES = {
    "tiny": Shape(layers=2, hidden=32, mlp=48, heads=4, kv_heads=2, vocabulary=128),
    "small": Shape(layers=8, hidden=384, mlp=1024, heads=6, kv_heads=2, vocabulary=8_000),
    "large": Shape(layers=24, hidden=896, mlp=4864, heads=14, kv_heads=2, vocabulary=32_000),
}


def write_checkpoint(shape: Shape, dtype: torch.dtype, folder: Path) -> None:
    """A checkpoint that any server of transformers' models can load, the same every time, with a
    tokenizer whose words are `t0`, `t1`, ..."""
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(shape.config)
    model.to(dtype).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"t{n}": n for n in range(shape.vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = Whitespace()
    kind: Any = PreTrainedTokenizerFast
    kind(tokenizer_object=words, unk_token="t0").save_pretrained(folder)


def prompts(vocabulary: int, count: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids `[count][length]`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, vocabulary, (count, length), generator=generator)
    return [[int(token) for token in row] for row in drawn.tolist()]
