"""What would break: a small float32 model whose searches change their bits, or a large one that is
served at half its speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mcts_core.models import precision
from mcts_core.models.precision import SMALL_BYTES, computes_bfloat16, device_of, dtype_of

CPU = torch.device("cpu")
LARGE = torch.bfloat16 if computes_bfloat16(CPU) else torch.float32


def checkpoint(folder: Path, stored: str | None, size: int) -> Path:
    config = {} if stored is None else {"dtype": stored}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return folder


@pytest.mark.parametrize(
    ("stored", "size", "expected"),
    [
        ("float32", 1000, torch.float32),
        (None, 1000, torch.float32),
        ("float32", SMALL_BYTES, LARGE),
        ("bfloat16", 1000, LARGE),
        ("float16", SMALL_BYTES, LARGE),
    ],
)
def test_auto_keeps_small_float32_models_and_else_takes_what_the_device_computes(
    tmp_path: Path, stored: str | None, size: int, expected: torch.dtype
) -> None:
    assert dtype_of("auto", checkpoint(tmp_path, stored, size), CPU) == expected


def test_auto_falls_back_to_float32_where_bfloat16_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert dtype_of("auto", checkpoint(tmp_path, "bfloat16", 1000), CPU) == torch.float32


def test_a_format_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    for name, dtype in precision.DTYPES.items():
        assert dtype_of(name, checkpoint(tmp_path, "float32", 1000), CPU) == dtype
    with pytest.raises(ValueError, match="'int8' is not one of auto, float32"):
        dtype_of("int8", tmp_path, CPU)


def test_a_device_that_is_not_there_is_named() -> None:
    assert device_of("cpu") == CPU
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="'cuda:99' is not there"):
        device_of("cuda:99")
    for name in ("tpu", "meta", ""):
        with pytest.raises(ValueError, match="is not one of auto, cpu, cuda"):
            device_of(name)
