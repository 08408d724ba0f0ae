"""What would break: tables that tell flash-attn another thing than the step says, and models or
settings that it cannot do and that are not refused at start."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mcts_core.attention import AttentionRefused, Backend, choose
from mcts_core.attention.flash import PAGE_TOKENS, FlashAttention, limits, tabulate
from mcts_core.attention.interface import CHUNK_TOKENS, Reads
from mcts_core.attention.reference import reference_attention
from mcts_core.engine.resident import Resident
from mcts_core.models.load import load_resident
from tests.mcts_core.attention.trees import SHAPES, Forest, Shape
from tests.mcts_core.attention.varlen import attend_by_definition
from tests.mcts_core.models_zoo import make

FLASH = Backend("flash", FlashAttention(attend_by_definition), tabulate=tabulate, limits=limits)
SERVED = {
    name: shape
    for name, shape in SHAPES.items()
    if not shape.sinks and shape.dim == shape.value_dim and shape.dim % 8 == 0
}


def load(folder: Path, *, dtype: torch.dtype = torch.bfloat16, block_size: int = 256) -> Resident:
    return load_resident(
        folder,
        "tiny",
        language_head=True,
        heads={},
        blocks=8,
        block_size=block_size,
        dtype=dtype,
        device=torch.device("cpu"),
        attention=FLASH,
    )


@pytest.mark.parametrize("shape", SERVED.values(), ids=SERVED)
def test_the_kernel_is_told_what_rows_and_chunks_see(shape: Shape) -> None:
    forest = Forest(shape)
    for branches in (
        forest.tree(129, [1 + n % 7 for n in range(9)]),
        forest.thicket(random.Random(3)),
    ):
        step = forest.next_tokens(branches, chunk=2 * CHUNK_TOKENS)
        found, wanted = step.attend(FLASH.attention), step.attend(reference_attention)
        assert (found - wanted).abs().max() < 1e-5


def test_several_chunks_of_several_sequences_are_one_call() -> None:
    forest = Forest(Shape(window=20))
    first, second = forest.tree(90, [3, 40])
    steps = [
        forest.next_tokens([branch], chunk=count) for branch, count in ((first, 16), (second, 48))
    ]
    calls = 0

    def kernel(*arguments: object, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return attend_by_definition(*arguments, **options)  # type: ignore[arg-type]

    for step in steps:
        step.attend(FlashAttention(kernel))
    assert calls == 4
    both = steps[0].beside(steps[1])
    calls = 0
    found, wanted = both.attend(FlashAttention(kernel)), both.attend(reference_attention)
    assert calls == 2, "one for the rows, one for the chunks"
    assert (found - wanted).abs().max() < 1e-5


def test_each_row_reads_its_whole_context_or_window() -> None:
    for window, expected in ((None, 10 * 25), (9, 10 * 3)):
        forest = Forest(Shape(window=window))
        reads = Reads()
        forest.next_tokens(forest.tree(96, [2] * 10)).attend(FLASH.attention, reads)
        assert reads.read == reads.attended == expected


def test_a_model_goes_through_the_kernel(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    assert load(tmp_path).storage.block_size == PAGE_TOKENS


def test_settings_that_it_cannot_do_are_refused_with_the_way_out(tmp_path: Path) -> None:
    make("llama").save_pretrained(tmp_path)
    with pytest.raises(AttentionRefused, match=r"not in float32: set dtype 'bfloat16', or use"):
        load(tmp_path, dtype=torch.float32)
    with pytest.raises(AttentionRefused, match=r"not of 16: set block_size 256, or use"):
        load(tmp_path, block_size=16)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt-oss-sinks", "has attention sinks"),
        ("deepseek-v3-mla", "keys 16 and values 12 wide"),
    ],
)
def test_models_that_it_cannot_do_are_refused_at_load(
    family: str, reason: str, tmp_path: Path
) -> None:
    make(family).save_pretrained(tmp_path)
    with pytest.raises(AttentionRefused, match=f"{reason}.*use attention 'triton' or 'cpu'"):
        load(tmp_path)


@pytest.mark.parametrize("dim", [264, 20])
def test_heads_that_it_cannot_do_are_refused(dim: int) -> None:
    forest = Forest(Shape(dim=dim, value_dim=dim))
    with pytest.raises(AttentionRefused, match=rf"has heads {dim} wide: 256 at most, and a mult"):
        forest.next_tokens(forest.tree(3, [1])).attend(FLASH.attention)


def test_it_is_refused_without_a_gpu_or_the_package() -> None:
    with pytest.raises(AttentionRefused, match="attention 'flash' needs an NVIDIA GPU"):
        choose("flash", torch.device("cpu"))
    if find_spec("flash_attn") is None:
        with pytest.raises(AttentionRefused, match=r"needs the package flash-attn.*\[flash\]"):
            choose("flash", torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("flash_attn") is None,
    reason="needs an NVIDIA GPU and flash-attn (extra flash)",
)
@pytest.mark.parametrize("shape", SERVED.values(), ids=SERVED)
def test_the_package_attends_as_the_definition_says(shape: Shape) -> None:
    device = torch.device("cuda")
    backend = choose("flash", device)
    forest = Forest(shape, block_size=256, blocks=64, device=device, dtype=torch.bfloat16)
    branches = forest.tree(700, [1, 2, 3, 60, 100, 255, 256, 257])
    step = forest.next_tokens(branches, chunk=4 * CHUNK_TOKENS)
    found, wanted = step.attend(backend.attention), step.attend(reference_attention)
    assert (found - wanted).abs().max() < 0.02
    alone = step.only([3]).attend(backend.attention)
    assert torch.equal(alone, found[3:4]), "a row's bits follow from its batch"
