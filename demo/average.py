"""Checkpoints of one training run averaged into one.

Where several rounds start from one another and end in the same basin, the mean of their weights
is better than each of them, and no search runs any slower (Izmailov et al., "Averaging weights
leads to wider optima", 2018; Wortsman et al., "Model soups", 2022).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def average(checkpoints: Mapping[Path, float], files: Sequence[str], out: Path) -> None:
    """Write the weighted mean of each safetensors file of `files` in the folders `checkpoints`
    (weights above 0, of any sum) to the same place below `out`.

    Raises ValueError if a file does not hold the same tensors in all of them."""
    total = sum(checkpoints.values())
    for file in files:
        mean: dict[str, Tensor] = {}
        for folder, weight in checkpoints.items():
            tensors = load_file(folder / file)
            if mean and {k: t.shape for k, t in mean.items()} != {
                k: t.shape for k, t in tensors.items()
            }:
                raise ValueError(f"{folder / file} holds other tensors than its like")
            for name, tensor in tensors.items():
                share = tensor.double() * (weight / total)
                mean[name] = mean[name] + share if name in mean else share
        made = {name: tensor.to(torch.float32).contiguous() for name, tensor in mean.items()}
        save_file(made, out / file, metadata={"format": "pt"})
