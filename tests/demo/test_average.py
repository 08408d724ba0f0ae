"""What would break: a mean of other weights than asked for, or of other models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo.average import average


def folder(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    save_file(tensors, path / "w.safetensors")
    return path


def test_the_mean_has_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=torch.tensor([1.0, 2.0]), b=torch.zeros(2, 2))
    two = folder(tmp_path / "two", a=torch.tensor([5.0, 10.0]), b=torch.ones(2, 2))
    average({one: 3.0, two: 1.0}, ["w.safetensors"], tmp_path)
    made = load_file(tmp_path / "w.safetensors")
    assert made["a"].tolist() == [2.0, 4.0]
    assert made["b"].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert made["a"].dtype == torch.float32


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=torch.zeros(2))
    for name, other in (("two", {"a": torch.zeros(3)}), ("three", {"b": torch.zeros(2)})):
        with pytest.raises(ValueError, match="other tensors"):
            average({one: 1.0, folder(tmp_path / name, **other): 1.0}, ["w.safetensors"], tmp_path)
