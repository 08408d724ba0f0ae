"""What would break: a block given out twice, or one lost."""

from __future__ import annotations

import pytest

from mcts_core.kv.blocks import PADDING_BLOCK, BlockPool, KVExhausted


def test_a_pool_gives_every_block_but_the_padding_once() -> None:
    pool = BlockPool(5, 16)
    blocks = [pool.allocate() for _ in range(4)]
    assert PADDING_BLOCK not in blocks
    assert len(set(blocks)) == 4
    with pytest.raises(KVExhausted):
        pool.allocate()
    pool.check_integrity()


def test_a_block_is_free_only_after_its_last_reference() -> None:
    pool = BlockPool(3, 16)
    block = pool.allocate()
    pool.share(block)
    assert pool.shared(block)
    pool.release(block)
    assert (pool.held, pool.free) == (1, 1)
    pool.release(block)
    assert (pool.held, pool.free) == (0, 2)


def test_a_block_released_too_often_is_an_error_and_not_a_second_free_block() -> None:
    pool = BlockPool(3, 16)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(ValueError, match="more often"):
        pool.release(block)
    with pytest.raises(ValueError, match="free"):
        pool.share(block)
    pool.check_integrity()


def test_a_pool_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold anything"):
        BlockPool(1, 16)
