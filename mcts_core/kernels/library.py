"""The compiled kernels (`decoder.cpp`, `sampler.cpp`), called without the interpreter's lock.

They are a plain shared library of two functions. It is linked with OpenMP, whose runtime torch has
loaded already: both share one pool of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_char, c_float, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from struct import Struct

import torch

PANEL = 32
"""Outputs of a weight that stand together."""
CELL = 16
"""Tokens of a KV block that stand together."""


class Layer(Structure):
    """`struct Layer` of decoder.cpp: a layer's packed weights and its KV."""

    _fields_ = [
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, c_void_p) for name in ("qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("qkv_bias", "output_bias", "gate_up_bias", "down_bias")),
        *((name, c_void_p) for name in ("query_norm", "key_norm")),
        *((name, c_void_p) for name in ("keys", "values")),
        ("window", c_int64),
    ]


class Model(Structure):
    """`struct Model` of decoder.cpp."""

    _fields_ = [
        *((name, c_int64) for name in ("layers", "hidden", "heads", "kv_heads", "dim")),
        *((name, c_int64) for name in ("intermediate", "vocabulary", "positions", "bfloat16")),
        ("epsilon", c_float),
        ("scaling", c_float),
        *((name, c_void_p) for name in ("embedding", "cosines", "sines", "norm", "head")),
        ("layer", POINTER(Layer)),
    ]


class Step(Structure):
    """`struct Step` of decoder.cpp: one forward's tokens, and where its results go."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "sequences", "kept", "slots", "block_size")),
        *((name, c_int64) for name in ("threads", "share")),
        *((name, c_void_p) for name in ("ids", "rows", "start", "table", "first")),
        *((name, c_void_p) for name in ("keep", "states", "logits", "finite")),
        *((name, c_int64) for name in ("read", "attended")),
    ]


WANTED, DRAWN = Struct("@PPdfffqqPPq"), Struct("@qdd")
"""`struct Draw` of sampler.cpp: what a row wants, and behind it what it got. Packing many is faster
than setting a `Structure`'s fields."""
DRAW_SIZE = WANTED.size + DRAWN.size

_ERRORS = {
    1: "a token id is not in the model's vocabulary",
    2: "a position is behind the last that the model knows",
    3: "the kernel was built without bfloat16",
}


class Library:
    """One build of the kernel."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises `OSError` when the file cannot be loaded, or was built from other sources;
        `PermissionError` when the system does not let the process use what it was built for."""
        self.name = name
        library = ctypes.CDLL(str(path))
        self._forward = library.decoder_forward
        self._forward.argtypes = (POINTER(Model), POINTER(Step))
        self._forward.restype = ctypes.c_int
        self._draw = library.sampler_draw
        self._draw.argtypes = (c_void_p, c_int64, c_int64, c_int64)
        self._draw.restype = None
        library.decoder_size.restype = library.sampler_size.restype = c_int64
        theirs = [*map(library.decoder_size, range(3)), library.sampler_size()]
        if not hasattr(library, "decoder_permitted") or theirs != [
            *map(ctypes.sizeof, (Layer, Model, Step)),
            DRAW_SIZE,
        ]:
            raise OSError(f"{path} was built from other sources: install mcts-serve again")
        if not library.decoder_permitted():
            raise PermissionError(f"the system does not permit {name}")

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Formats of the weights and the KV."""
        wide = {torch.float32}
        return frozenset(wide | {torch.bfloat16} if self.name in _BFLOAT16 else wide)

    def forward(self, model: Model, step: Step) -> None:
        """Computes the step. Raises `ValueError` before anything is written when one of its numbers
        is out of range."""
        error = self._forward(model, step)
        if error:
            raise ValueError(_ERRORS[error])

    def draw(self, draws: bytearray, vocabulary: int) -> None:
        """Draws a token for each row, from logits of `vocabulary` float32. `draws` are packed as
        `WANTED`, with room for `DRAWN` behind each."""
        first = ctypes.addressof(c_char.from_buffer(draws))
        self._draw(first, len(draws) // DRAW_SIZE, vocabulary, torch.get_num_threads())


_BFLOAT16 = ("amx", "avx512_bf16")
_FEATURES = {
    "amx": (
        *("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd", "avx512_bf16"),
        *("amx_tile", "amx_bf16"),
    ),
    "avx512_bf16": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd", "avx512_bf16"),
    "avx512": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd"),
    "avx2": ("avx2", "bmi2", "f16c"),
}
"""What each build asks of a CPU, the fastest first; `fma3` beside it."""


def libraries() -> Iterator[Library]:
    """The builds that are there and that this CPU can run, the fastest first. Raises `OSError` for
    one that does not fit these sources."""
    able = torch.cpu.get_capabilities()
    for name, features in _FEATURES.items():
        if all(able.get(feature) for feature in ("fma3", *features)):
            for suffix in EXTENSION_SUFFIXES:
                path = Path(__file__).with_name(f"{name}{suffix}")
                if path.is_file():
                    try:
                        library = Library(path, name)
                    except PermissionError:
                        break
                    yield library
                    break


def best_library() -> Library | None:
    """The fastest of them; None if there is none."""
    return next(libraries(), None)
