"""Where a model computes, and in which floating-point format."""

from __future__ import annotations

import json
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
SMALL_BYTES = 200_000_000
"""A float32 checkpoint of less than this (50 million parameters) stays float32 under `auto`: its
steps are not bound by memory, and its results stay the bits that it was measured with."""


def device_of(name: str) -> torch.device:
    """`auto` is the first CUDA device, or the CPU where there is none.

    Raises `ValueError` for a device that is not there.
    """
    if name == AUTO:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use cpu or auto"
        )
    return device


def dtype_of(name: str, checkpoint: Path, device: torch.device) -> torch.dtype:
    """The format that a checkpoint's weights, KV and matrix products get.

    `auto`: float32 for a small float32 checkpoint, else bfloat16 where the device computes it
    natively, else float32. Raises `ValueError` for an unknown name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != AUTO:
        raise ValueError(f"dtype {name!r} is not one of {AUTO}, {', '.join(DTYPES)}")
    small = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) < SMALL_BYTES
    if small and _stored(checkpoint) == "float32":
        return torch.float32
    return torch.bfloat16 if computes_bfloat16(device) else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products: CUDA from capability 8.0 on, CPUs
    with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _stored(checkpoint: Path) -> str:
    """The format that the checkpoint's configuration names; transformers writes float32 when it
    names none."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "float32"
    inner = config.get("text_config") or {}
    names = (each.get(key) for each in (config, inner) for key in ("dtype", "torch_dtype"))
    return str(next((name for name in names if name), "float32"))
