"""What would break: Triton kernels that attend otherwise than the definition says, or whose result
for a row depends on the other rows. On a machine without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (extra gpu)")

from mcts_core.attention import Backend
from mcts_core.attention.interface import CHUNK_TOKENS, Reads
from mcts_core.attention.reference import reference_attention
from mcts_core.attention.triton import paged_attention
from mcts_core.models.gate import probe
from tests.mcts_core.attention.trees import SHAPES, Forest, Shape
from tests.mcts_core.models_zoo import make, seat

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rows_of_trees_attend_as_the_definition_says(shape: Shape) -> None:
    forest = Forest(shape, device=DEVICE)
    for branches in (
        forest.tree(129, [1 + n % 7 for n in range(9)]),
        forest.tree(63, [0, 1, 2, 66]),
    ):
        step = forest.next_tokens(branches, chunk=CHUNK_TOKENS)
        found, wanted = step.attend(paged_attention), step.attend(reference_attention)
        assert (found - wanted).abs().max() < 1e-5


def _product(left: np.ndarray, right: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (left.astype(dtype)[:, :, None] * right.astype(dtype)[None]).sum(1)


@pytest.fixture
def fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, a row of a tile's product does not depend on its place in the tile. The interpreter
    takes numpy's product, where with some of OpenBLAS's kernels (`OPENBLAS_CORETYPE=Zen`) it
    does."""
    monkeypatch.setattr(np, "matmul", _product)


@pytest.mark.usefixtures("fixed_order")
@pytest.mark.parametrize("shape", [Shape(), Shape(window=75)], ids=["full", "window"])
def test_a_row_in_a_tree_has_the_same_bits_as_alone(shape: Shape) -> None:
    rng = random.Random(2)
    forest = Forest(shape, device=DEVICE)
    branches = forest.tree(130, [rng.randrange(1, 80) for _ in range(11)]) + forest.tree(9, [3])
    step = forest.next_tokens(branches)
    together = step.attend(paged_attention)
    for count in (1, 2, 9):
        picked = rng.sample(range(len(branches)), count)
        assert torch.equal(step.only(picked).attend(paged_attention), together[picked])


def test_a_tree_reads_its_prompt_once() -> None:
    forest = Forest(Shape(), device=DEVICE)
    step = forest.next_tokens(forest.tree(96, [3] * 10))
    reads = Reads()
    step.attend(paged_attention, reads)
    assert reads.read == 96 // 4 + 10


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the tiny models are made on the CPU")
@pytest.mark.parametrize("family", ["llama", "mistral-window", "gemma2-softcap", "gpt-oss-sinks"])
def test_models_pass_the_probe_on_the_kernels(family: str) -> None:
    model = make(family)
    resident = seat(model, attention=Backend("triton", paged_attention))
    assert probe(model, resident, family) < 1e-5


def test_the_kernels_compile_for_an_nvidia_gpu_within_its_shared_memory(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.mcts_core.attention.compile_kernels"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shared = [int(line.split()[-1]) for line in run.stdout.splitlines()]
    assert len(shared) == 6
    assert max(shared) <= 99 * 1024, "what a block of threads may have on all GPUs since Ampere"
