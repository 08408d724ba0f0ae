"""Sizes the models' KV pools by the memory of the device that they are on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path

import psutil
import torch

from mcts_core.engine.resident import Resident
from mcts_core.engine.sampler import Draw, sample
from mcts_core.engine.seating import POLICY, ROLLOUT
from mcts_core.kv.branch import Branch, Ledger
from mcts_core.kv.sizing import CPU_TOKENS, LOGITS_SHARE, SHARES, pool_blocks
from mcts_core.models.decoder import Rows
from mcts_core.models.logits import rows_of
from mcts_core.search.work import Sampling


def fit_pools(
    residents: Mapping[str, Resident],
    device: torch.device,
    *,
    share: float | None,
    context: int,
    max_batch_rows: int,
    slice_tokens: int,
) -> None:
    """Gives each model the pool that the device has room for; see `kv.sizing`.

    The models are loaded and every layer of their small pools has been written. `share` is by
    default that of the kind of device. On CUDA, what a step takes beside the KV is measured first;
    on a CPU the share leaves room for it.

    Raises `PoolsTooSmall` if not even one context of `context` tokens fits.
    """
    block_size = next(iter(residents.values())).pool.block_size
    free = free_bytes(device)

    def blocks(reserved: int) -> int:
        return pool_blocks(
            {name: _bytes_per_token(name, resident) for name, resident in residents.items()},
            free=free,
            reserved=reserved,
            share=SHARES[device.type] if share is None else share,
            block_size=block_size,
            context=context,
            most_tokens=CPU_TOKENS if device.type == "cpu" else None,
        )

    count = blocks(0)
    if device.type == "cuda":
        taken = [
            _step_bytes(resident, device, context, max_batch_rows, slice_tokens)
            for resident in residents.values()
        ]
        count = blocks(sum(kept for kept, _ in taken) + max(peak for _, peak in taken))
        torch.cuda.empty_cache()
    for resident in residents.values():
        resident.resize(count)
        resident.prepare()


def _bytes_per_token(name: str, resident: Resident) -> int:
    """Of its KV, and of the logits that are kept beside."""
    share = LOGITS_SHARE if name in (POLICY, ROLLOUT) else 0.0
    return ceil(resident.storage.bytes_per_token * (1 + share))


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses. Of a CPU: what the system can give without swapping,
    within the limit of the process's container."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        # The files that were read, such as the weights, are counted until others want the memory.
        found = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
        used -= int(found[1]) if found else 0
    except OSError:  # no container, or one without a limit of its own
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def step_blocks(resident: Resident, context: int, max_batch_rows: int) -> int:
    """Blocks of a pool in which `full_steps` has room."""
    size = resident.pool.block_size
    wide = sum(-(-count // size) for count in _counts(resident, context, max_batch_rows))
    return max(wide, -(-context // size)) + 1


@torch.inference_mode()
def full_steps(resident: Resident, context: int, max_batch_rows: int, slice_tokens: int) -> None:
    """Computes the two steps that take the most memory: one full of tokens that all want to be
    drawn, and the last slice of a prompt that fills the context."""
    ledger = Ledger()
    try:
        rows: list[Rows] = []
        for count in _counts(resident, context, max_batch_rows):
            branch = Branch(resident.pool, ledger)
            branch.grow(count)
            rows.append(Rows(branch, [1] * count, 0, range(count)))
        logits = resident.forward(rows, []).logits
        if logits is not None:
            draw = Draw(Sampling(), False, 0.5, {}, (), 0)
            drawn = rows_of(logits)[::-1]  # this order takes a copy, as a step may
            sample(drawn, [draw] * len(drawn))
            del drawn
        del logits
        ledger.release_all()
        context = min(context, resident.decoder.context_length)
        branch, last = Branch(resident.pool, ledger), min(slice_tokens, context)
        branch.grow(context)
        resident.forward([Rows(branch, [1] * last, context - last, [last - 1])], [])
    finally:
        ledger.release_all()


def _counts(resident: Resident, context: int, max_batch_rows: int) -> list[int]:
    """Lengths of the sequences that fill a step."""
    each = min(max_batch_rows, context, resident.decoder.context_length)
    return [each] * (max_batch_rows // each)


def _step_bytes(
    resident: Resident, device: torch.device, context: int, max_batch_rows: int, slice_tokens: int
) -> tuple[int, int]:
    """Memory that captured steps keep, and what a step takes at most beside that, weights and
    KV."""
    small = resident.pool.total
    resident.resize(step_blocks(resident, context, max_batch_rows))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    resident.prepare()
    torch.cuda.empty_cache()
    kept = torch.cuda.memory_reserved(device) - before
    resting = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    full_steps(resident, context, max_batch_rows, slice_tokens)
    peak = torch.cuda.max_memory_allocated(device)
    resident.resize(small)
    return max(0, kept), peak - resting
