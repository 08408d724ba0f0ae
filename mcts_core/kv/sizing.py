"""How many blocks the models' pools get of a device's memory. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

SHARES = {"cuda": 0.9, "cpu": 0.5}
"""By kind of device: the share of the free memory that the pools take unless it is said otherwise.
The same 0.9 as vLLM's `gpu_memory_utilization`; a CPU's memory is not the server's alone."""

LOGITS_SHARE = 1 / 16
"""Of the bytes of a pool whose model draws tokens: so much is left beside it for the logits of
states, and they take no more."""

CPU_TOKENS = 65_536
"""A CPU's pools are no larger than this, or than one context: it would be long in filling them."""


class PoolsTooSmall(ValueError):
    """Not even one context fits; the message names the settings that help."""


def pool_blocks(
    bytes_per_token: Mapping[str, int],
    *,
    free: int,
    reserved: int,
    share: float,
    block_size: int,
    context: int,
    most_tokens: int | None = None,
) -> int:
    """Blocks of each model's pool, the pinned one included.

    A state has a seat in several models, so the pools hold the same number of tokens each: every
    model has its part of `share * (free - reserved)` bytes by its `bytes_per_token`. `free` bytes
    are there once the models are loaded; a step takes `reserved` of them besides. No more than
    `most_tokens`, if given, or than one context.

    Raises `PoolsTooSmall` if `context` tokens do not fit into each pool.
    """
    each = sum(bytes_per_token.values())
    budget = int(share * max(0, free - reserved))
    blocks = budget // (block_size * each)
    if (blocks - 1) * block_size < context:
        needed = (-(-context // block_size) + 1) * block_size * each
        raise PoolsTooSmall(
            f"a context of {context} tokens needs {_size(needed)} of KV memory ({each} bytes a "
            f"token for {', '.join(bytes_per_token)}); 'kv_memory_share' {share:g} of the "
            f"{_size(max(0, free - reserved))} that are free beside the models gives "
            f"{_size(budget)}: raise 'kv_memory_share', or set 'pool_tokens' to serve shorter "
            "prompts only"
        )
    if most_tokens is not None:
        blocks = min(blocks, -(-max(most_tokens, context) // block_size) + 1)
    return blocks


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.2f} MiB"
