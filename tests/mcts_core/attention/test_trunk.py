"""What would break: a trunk that is read once for each row, that gives other values than the
definition of attention, or other bits than the same row alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import torch

from mcts_core.attention.cpu import paged_attention
from mcts_core.attention.interface import CHUNK_TOKENS, Reads
from mcts_core.attention.plan import SEGMENT_BLOCKS, TRUNK_SEGMENTS, make_plan
from mcts_core.attention.reference import reference_attention
from tests.mcts_core.attention.trees import SHAPES, Forest, Shape


@pytest.fixture
def engine_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rows_of_trees_attend_as_the_definition_says(shape: Shape) -> None:
    rng = random.Random(1)
    forest = Forest(shape)
    for branches in (
        forest.tree(129, [1 + n % 7 for n in range(16)]),
        forest.tree(64, [0, 1, 63, 64, 65, 200]),
        forest.thicket(rng),
    ):
        step = forest.next_tokens(branches, chunk=CHUNK_TOKENS)
        found, wanted = step.attend(paged_attention), step.attend(reference_attention)
        assert (found - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "threads"),
    [*((name, 1) for name in SHAPES), ("one-kv-head", 2), ("seven-to-one", 2)],
)
def test_a_row_in_a_tree_has_the_same_bits_as_alone(
    name: str, threads: int, engine_threads: Callable[[int], None]
) -> None:
    engine_threads(threads)
    rng = random.Random(2)
    forest = Forest(SHAPES[name])
    branches = forest.tree(130, [rng.randrange(1, 80) for _ in range(40)])
    branches += forest.thicket(rng)
    step = forest.next_tokens(branches)
    together = step.attend(paged_attention)
    for count in (1, 1, 2, 3, 5, 8, 9, 17, 33):
        picked = rng.sample(range(len(branches)), count)
        assert torch.equal(step.only(picked).attend(paged_attention), together[picked])


def test_sixteen_rows_over_a_prompt_of_1024_tokens_read_it_once() -> None:
    forest = Forest(Shape(), block_size=16)
    step = forest.next_tokens(forest.tree(1024, [40] * 16))
    reads = Reads()
    step.attend(paged_attention, reads)
    prompt, suffix = 1024 // 16, 3
    assert reads.read == prompt + 16 * suffix
    assert reads.attended == 16 * (prompt + suffix)


def test_a_run_of_blocks_that_some_rows_share_beyond_the_prompt_is_read_once_too() -> None:
    forest = Forest(Shape(), block_size=16)
    stem = forest.tree(512, [256, 256])
    twigs = [branch.fork() for branch in stem for _ in range(8)]
    for twig in twigs:
        forest.storage.copy(twig.grow(5))
    reads = Reads()
    forest.next_tokens(twigs).attend(paged_attention, reads)
    assert reads.read == 512 // 16 + 2 * 256 // 16 + 16


def test_what_lies_before_a_window_is_not_read() -> None:
    forest = Forest(Shape(window=100), block_size=16)
    step = forest.next_tokens(forest.tree(1024, [1] * 16))
    reads = Reads()
    step.attend(paged_attention, reads)
    assert reads.read == SEGMENT_BLOCKS + 16


def test_short_contexts_are_not_cut() -> None:
    forest = Forest(Shape())
    span = SEGMENT_BLOCKS * forest.pool.block_size
    branches = forest.tree(15, [1, 20, TRUNK_SEGMENTS * span - 15])
    step = forest.next_tokens(branches)
    size, device = forest.pool.block_size, torch.device("cpu")
    plan = make_plan(step.rows, None, size, device, tile_rows=4)
    assert not plan.segments
    assert not any(group.segments for group in plan.groups)
    longer = forest.next_tokens(forest.tree(TRUNK_SEGMENTS * span, [1])).rows
    assert make_plan(
        longer, None, forest.pool.block_size, torch.device("cpu"), tile_rows=4
    ).segments
