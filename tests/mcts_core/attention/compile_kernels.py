"""Compiles the Triton kernels for an NVIDIA GPU (compute capability 9.0), which needs none; prints
each with the shared memory that it takes, in bytes. Run as a process of its own, because kernels
that were declared for the interpreter cannot be compiled."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mcts_core.attention import triton_kernels

NUMBERS = {"scale": "fp32", "head_stride": "i64", "token_stride": "i64", "slots": "i64"}
FLOATS = ("parts", "lse")
ELEMENTS = ("query", "keys", "values", "sinks", "out")


def compile_kernel(kernel: Any, element: str, constants: dict[str, Any]) -> None:
    names = [parameter.name for parameter in kernel.params]
    signature = {}
    for name in names:
        pointer = element if name in ELEMENTS else "fp32" if name in FLOATS else "i64"
        kind = NUMBERS.get(name, f"*{pointer}")
        signature[name] = "constexpr" if name in constants else kind
    source = ASTSource(
        kernel, signature, {(names.index(name),): value for name, value in constants.items()}
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, element, constants["dim"], compiled.metadata.shared)


def main() -> None:
    for element, grouped, dim, value_dim, softcap, window, sinks in (
        ("bf16", 7, 64, 64, 0.0, 0, False),
        ("bf16", 1, 192, 128, 0.0, 0, False),
        ("fp32", 2, 256, 256, 30.0, 4096, True),
    ):
        shape = {
            "softcap": softcap,
            "window": window,
            "size": 16,
            "grouped": grouped,
            "dim": dim,
            "value_dim": value_dim,
            "block_n": 32,
            "block_d": triton.next_power_of_2(dim),
            "block_v": triton.next_power_of_2(value_dim),
        }
        segments = {"segment_blocks": 8, "tile_rows": 8, "block_m": 64 if grouped > 2 else 16}
        compile_kernel(triton_kernels.attend_segments, element, {**shape, **segments})
        rows = {"has_sinks": sinks, "block_m": 16}
        compile_kernel(triton_kernels.attend_rows, element, {**shape, **rows})


if __name__ == "__main__":
    main()
