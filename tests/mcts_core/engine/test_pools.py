"""What would break: pools that are larger than the device, that forget a layer, or a measured step
that leaves something behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from mcts_core.attention import Backend, choose
from mcts_core.attention.flash import FlashAttention, tabulate
from mcts_core.engine.pools import fit_pools, free_bytes, full_steps, step_blocks
from mcts_core.engine.resident import Resident
from mcts_core.kv.branch import Branch, Ledger
from mcts_core.kv.sizing import PoolsTooSmall
from mcts_core.models.gate import probe
from mcts_core.models.graphs import Capture, CudaRecorder
from tests.mcts_core.attention.varlen import attend_by_definition
from tests.mcts_core.models_zoo import make, seat

CPU = torch.device("cpu")


@pytest.fixture
def residents() -> Iterator[dict[str, Resident]]:
    """Models as they are after loading: small pools of which every layer was written."""
    trunk, critic = make("llama"), make("deepseek-v3-mla", language_head=False)
    found = {"policy": seat(trunk, blocks=30), "orm": seat(critic, blocks=30)}
    for name, model in (("policy", trunk), ("orm", critic)):
        probe(model, found[name], name)
    yield found
    for resident in found.values():
        resident.pool.check_integrity()
        assert resident.pool.held == 0


def test_bytes_of_a_token_are_those_of_the_layers(residents: dict[str, Resident]) -> None:
    """Two layers in float32: keys and values of 2 heads of 8; of 4 heads, 16 wide and 12."""
    assert residents["policy"].storage.bytes_per_token == 2 * 2 * (8 + 8) * 4
    assert residents["orm"].storage.bytes_per_token == 2 * 4 * (16 + 12) * 4


def test_a_resized_pool_serves_as_the_old_one_did(residents: dict[str, Resident]) -> None:
    for name, resident in residents.items():
        per_token = resident.storage.bytes_per_token
        resident.resize(77)
        assert resident.pool.total == resident.storage.blocks == 77
        assert resident.storage.bytes == 77 * 4 * per_token, "all layers are there at once"
        probe(resident.decoder.model, resident, name)


def test_a_pool_that_is_in_use_is_not_resized(residents: dict[str, Resident]) -> None:
    ledger = Ledger()
    Branch(residents["policy"].pool, ledger).grow(5)
    with pytest.raises(ValueError, match="2 blocks of the pool are held"):
        residents["policy"].resize(50)
    ledger.release_all()


@pytest.mark.parametrize(
    ("context", "rows", "slice_tokens"), [(256, 64, 32), (40, 100, 16), (256, 1, 1), (99, 99, 49)]
)
def test_the_fullest_steps_fit_the_pool_that_is_made_for_them(
    residents: dict[str, Resident], context: int, rows: int, slice_tokens: int
) -> None:
    for resident in residents.values():
        resident.resize(step_blocks(resident, context, rows))
        full_steps(resident, context, rows, slice_tokens)
        assert resident.pool.free == resident.pool.total - 1


def test_on_a_cpu_pools_take_a_share_of_the_memory_up_to_a_cap(
    residents: dict[str, Resident],
) -> None:
    size = {"context": 256, "max_batch_rows": 64, "slice_tokens": 32}
    fit_pools(residents, CPU, share=None, **size)  # type: ignore[arg-type]
    assert {resident.pool.total for resident in residents.values()} == {65_536 // 4 + 1}
    each = sum(resident.storage.bytes_per_token for resident in residents.values())
    share = 3000 * each / free_bytes(CPU)
    fit_pools(residents, CPU, share=share, **size)  # type: ignore[arg-type]
    first, second = (resident.pool for resident in residents.values())
    assert first.total == second.total
    # What is free may change a little between two looks.
    assert 1500 < first.total * 4 < 6000
    with pytest.raises(PoolsTooSmall, match="'kv_memory_share'"):
        fit_pools(residents, CPU, share=share / 100, **size)  # type: ignore[arg-type]


def test_the_largest_captured_step_is_recorded_over_the_pool_that_is_made() -> None:
    recorded = []

    def record(compute: Callable[[], None]) -> Callable[[], None]:
        recorded.append(resident.pool.total)
        return compute

    capture = Capture(tabulate, lambda: record, 16)
    backend = Backend("flash", FlashAttention(attend_by_definition), tabulate=tabulate)
    model = make("llama")
    resident = seat(model, blocks=30, attention=backend, capture=capture)
    probe(model, resident, "policy")
    recorded.clear()
    fit_pools(
        {"policy": resident}, CPU, share=None, context=256, max_batch_rows=64, slice_tokens=32
    )
    assert recorded == [65_536 // 4 + 1]


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None,
    reason="needs an NVIDIA GPU and triton (extra gpu)",
)
def test_on_cuda_the_pools_leave_room_for_a_step() -> None:
    device = torch.device("cuda:0")
    model = make("llama").to(device)
    backend = choose("triton", device)
    assert backend.tabulate is not None
    capture = Capture(backend.tabulate, partial(CudaRecorder, device), 64)
    resident = seat(model, blocks=30, attention=backend, capture=capture)
    probe(model, resident, "policy")
    free = free_bytes(device)
    share = min(0.9, 2**30 / free)
    fit_pools(
        {"policy": resident}, device, share=share, context=256, max_batch_rows=64, slice_tokens=32
    )
    assert 0.8 * share * free < resident.storage.bytes <= share * free
    full_steps(resident, 256, 64, 32)


def test_free_memory_of_a_cpu_is_part_of_what_the_machine_has() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes(CPU) <= physical
