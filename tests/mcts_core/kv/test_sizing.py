"""What would break: pools that do not fit the device, or a server that starts and can serve
nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.kv.sizing import PoolsTooSmall, pool_blocks

GIB = 2**30
SIZES = {"policy": 1000, "rollout": 200, "orm": 400}


def blocks(sizes: dict[str, int] = SIZES, **given: Any) -> int:
    usual: dict[str, Any] = {
        "free": 16_000_000,
        "reserved": 0,
        "share": 0.5,
        "block_size": 10,
        "context": 100,
    }
    return pool_blocks(sizes, **usual | given)


def test_the_share_of_what_is_free_is_split_by_the_bytes_of_a_token() -> None:
    """1600 bytes a token, 16 000 a block of ten; one block of them is pinned."""
    assert blocks() == 500
    assert blocks(share=0.9) == 900
    assert blocks(reserved=8_000_000) == 250
    assert blocks({"policy": 1000}) == 800
    assert blocks(block_size=16) == 312


def test_an_8b_model_on_an_80_gib_device() -> None:
    """32 layers, keys and values, 8 heads of 128 in bfloat16: 131 072 bytes a token. 64 GiB free
    beside the weights, 4 GiB for a step."""
    count = blocks(
        {"policy": 131_072},
        free=64 * GIB,
        reserved=4 * GIB,
        share=0.9,
        block_size=16,
        context=131_072,
    )
    assert count == 54 * GIB // (131_072 * 16) == 27_648


def test_a_cap_holds_unless_one_context_is_longer() -> None:
    assert blocks(most_tokens=1000) == 101
    assert blocks(most_tokens=1001) == 102
    assert blocks(most_tokens=50) == 11, "a context, and the pinned block"
    assert blocks(most_tokens=10**9) == 500


def test_one_context_must_fit_and_the_message_says_what_helps() -> None:
    """Eleven blocks of 16 000 bytes: ten hold the context."""
    assert blocks(free=352_000) == 11
    for lacking in ({"free": 351_998}, {"free": 352_000, "reserved": 2}, {"free": 0}):
        with pytest.raises(PoolsTooSmall) as refused:
            blocks(**lacking)
        for named in ("'kv_memory_share' 0.5", "'pool_tokens'", "100 tokens", "policy, rollout"):
            assert named in str(refused.value)
    with pytest.raises(PoolsTooSmall, match=r"0\.00 MiB that are free"):
        blocks(free=5, reserved=10)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=1, max_size=4),
    st.integers(0, 2**38),
    st.integers(0, 2**36),
    st.floats(0.01, 1.0),
    st.integers(1, 64),
    st.integers(1, 10**6),
)
def test_the_pools_never_take_more_than_their_share_and_hold_a_context(
    sizes: dict[str, int], free: int, reserved: int, share: float, block_size: int, context: int
) -> None:
    room = {"free": free, "reserved": reserved, "share": share}
    try:
        count = pool_blocks(sizes, **room, block_size=block_size, context=context)  # type: ignore[arg-type]
    except PoolsTooSmall:
        needed = (-(-context // block_size) + 1) * block_size * sum(sizes.values())
        assert needed > int(share * max(0, free - reserved))
        return
    each = block_size * sum(sizes.values())
    assert count * each <= share * (free - reserved) < (count + 1) * each + 1
    assert (count - 1) * block_size >= context
