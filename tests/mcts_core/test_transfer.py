"""What would break: a step in which the host waits for the device more often than it says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from mcts_core.attention import CPU, Backend
from mcts_core.attention.flash import FlashAttention, tabulate
from mcts_core.attention.interface import CHUNK_TOKENS
from mcts_core.engine.resident import Resident
from mcts_core.engine.sampler import Draw, sample
from mcts_core.kv.branch import Branch, Copies, Ledger
from mcts_core.kv.storage import KVStorage
from mcts_core.models.decoder import Computed, Rows
from mcts_core.models.logits import rows_of
from mcts_core.search.work import Boundary, Extend, Open, Opened, Sampling
from mcts_core.transfer import packed, unpacked, upload, upload_all
from tests.mcts_core.attention.varlen import attend_by_definition
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running
from tests.mcts_core.far import FAR, FarDevice, HostWaits, far
from tests.mcts_core.models_zoo import make, seat

LOGITS = torch.randn((40, 50), generator=torch.Generator().manual_seed(4)) * 3
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.0, logprobs=3),
    Sampling(top_k=5, top_p=0.9, min_p=0.05),
    Sampling(logit_bias=((3, 2.0), (4, -1.0)), repetition_penalty=1.3),
    Sampling(presence_penalty=0.5, frequency_penalty=0.2, logprobs=5),
]


def draws(count: int) -> list[Draw]:
    """Of every kind that there is."""
    found = []
    for row in range(count):
        sampling = SAMPLINGS[row % len(SAMPLINGS)]
        taken = {row: 0.0, row + 1: 0.5} if row % 2 else {}
        allowed, left = ((1, 2, 8), (2, 8)) if row % 7 == 0 else (None, None)
        greedy = sampling.temperature == 0
        found.append(Draw(sampling, greedy, row / count, taken, (4, 5, 4), 1, allowed, left))
    return found


def test_tables_in_one_copy_come_apart_again() -> None:
    tables = [[1, 2, 3], [], [4], [5, 6]]
    assert [each.tolist() for each in upload_all(tables, torch.device("cpu"))] == tables
    numbers = torch.tensor(packed(tables))
    views = unpacked(numbers, map(len, tables))
    assert [view.storage_offset() * 8 % 16 for view in views] == [0] * 4
    numbers += 1
    assert views[0].tolist() == [2, 3, 4], "they are views"


@pytest.mark.parametrize(
    "wait",
    [
        lambda tensor: float(tensor.sum()),
        lambda tensor: bool((tensor > 0).any()),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.tolist(),
        lambda tensor: torch.tensor([1.0]).to(tensor.device),
    ],
)
def test_the_far_device_notices_whoever_waits(wait: Any) -> None:
    with FarDevice(), pytest.raises((HostWaits, RuntimeError)):
        wait(far(LOGITS))


def test_the_far_device_computes_and_counts() -> None:
    with FarDevice() as device:
        doubled = far(LOGITS) * upload([2.0], FAR, torch.float32)
        doubled[0] += torch.ones(50, device=FAR)
        found = doubled.cpu()
    assert (device.uploads, device.read_backs) == (1, 1)
    expected = LOGITS * 2
    expected[0] += 1
    assert torch.equal(found, expected)


def test_sampling_reads_back_once() -> None:
    logits = LOGITS.clone()
    logits[11] = math.nan
    rows = draws(len(logits))
    with FarDevice() as device:
        found = sample(rows_of(far(logits)), rows)
    assert device.read_backs == 1
    assert found[11] is None
    assert found == sample(rows_of(logits), rows)


def away(model: Any) -> Any:
    """The model, with its weights and buffers on the far device."""
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    own[name] = far(tensor)
    return model


@pytest.fixture(params=["cpu", "flash"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Without the package, flash-attn's kernel is its definition, which is no part of a step."""
    if request.param == "cpu":
        yield CPU
        return

    def kernel(*arguments: Any, **options: Any) -> torch.Tensor:
        near = [each.near if hasattr(each, "near") else each for each in arguments]
        options["block_table"] = getattr(options["block_table"], "near", options["block_table"])
        # Modes are left as on a device: nothing of this runs on the host.
        with torch.utils._python_dispatch._disable_current_modes():
            found = attend_by_definition(*near, **options)
        return far(found) if hasattr(arguments[0], "near") else found

    yield Backend("flash", FlashAttention(kernel), tabulate=tabulate)


@pytest.mark.parametrize("family", ["llama", "gemma2-softcap"])
def test_a_forward_reads_nothing_back_until_it_is_asked_whether_all_is_finite(
    family: str, backend: Backend
) -> None:
    def steps(resident: Resident) -> Iterator[Computed]:
        ledger = Ledger()
        trunk, other = Branch(resident.pool, ledger), Branch(resident.pool, ledger)
        text = [3 + n % 90 for n in range(5 * CHUNK_TOKENS + 3)]
        twig = None
        for tokens in (text, [7], [8]):
            work = [(trunk, tokens), (other, tokens[:40])]
            work += [] if twig is None else [(twig, [9])]
            copies: Copies = []
            rows = []
            for branch, mine in work:
                start = branch.length
                copies += branch.grow(len(mine))
                rows.append(Rows(branch, mine, start, [len(mine) - 1]))
            # As `Resident.forward`, which infers in a mode that wrapped tensors do not know.
            resident.storage.copy(copies)
            computed = resident.decoder.forward(rows, resident.storage, resident.reads)
            assert computed.logits is not None
            yield computed
            twig = twig or trunk.fork(trunk.length - 1)

    here = seat(make(family), attention=backend)
    expected = list(steps(here))
    resident = seat(make(family), attention=backend)
    with FarDevice() as device:
        away(resident.decoder.model)  # type: ignore[attr-defined]
        there = seat(resident.decoder.model, attention=backend)  # type: ignore[attr-defined]
        for number, computed in enumerate(steps(there)):
            assert device.read_backs == number
            assert all(computed.finite())
            assert device.read_backs == number + 1
            near: torch.Tensor = computed.logits.near  # type: ignore[union-attr]
            assert torch.allclose(near, cast(torch.Tensor, expected[number].logits), atol=1e-5)


def test_whether_blocks_are_finite_is_one_question() -> None:
    with FarDevice() as device:
        storage = KVStorage(6, 4, torch.float32, FAR)
        for layer in range(3):
            storage.write(layer, *(torch.ones((2, 1, 8), device=FAR),) * 2, upload([9], FAR))
        assert storage.finite([1, 2, 3])
        assert device.read_backs == 1
        storage.tensors(1, 2, 8, 8)[1][0, 9] = math.inf
        assert not storage.finite([1, 2, 3])
        assert storage.finite([1, 3])
        storage.zero([2])
        assert storage.finite([2])


def test_whether_all_is_finite_is_asked_only_where_kv_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device is waited for then; a step that goes on with options waits for the draws alone."""
    running = Running()
    resident, forwards, asked = running.residents["policy"], list[int](), list[int]()
    forward = resident.forward

    def counted(*arguments: Any) -> Computed:
        computed = forward(*arguments)
        number = len(forwards)
        forwards.append(number)

        def finite() -> Sequence[bool]:
            asked.append(number)
            return computed.finite()

        return replace(computed, finite=finite)

    monkeypatch.setattr(resident, "forward", counted)

    def plan() -> Plan:
        (root,) = yield [Open(tuple(range(5, 16)))]
        assert isinstance(root, Opened)
        never_ends = Sampling(logit_bias=((END_TOKEN, -100.0),))
        yield [Extend(root.state, never_ends, (0, 0), Boundary(), 9)]

    running.run(plan())
    running.idle()
    running.close()
    assert forwards == list(range(10))
    assert asked == [0, 9], "the prompt, and the option's last token"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_nothing_waits_for_a_gpu_but_what_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own check, with the read-backs let through."""
    device = torch.device("cuda")
    resident = seat(make("llama").to(device), attention=CPU)
    read_back = torch.Tensor.cpu

    def allowed(tensor: torch.Tensor) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("default")
        found = read_back(tensor)
        torch.cuda.set_sync_debug_mode("error")
        return found

    monkeypatch.setattr(torch.Tensor, "cpu", allowed)
    branch = Branch(resident.pool, Ledger())
    branch.grow(40)
    rows = [Rows(branch, list(range(3, 43)), 0, range(40))]
    resident.forward(rows, [])
    sample(rows_of(LOGITS.to(device)), draws(len(LOGITS)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        computed = resident.forward(rows, [])
        assert computed.logits is not None
        sample(rows_of(computed.logits), draws(40))
    finally:
        torch.cuda.set_sync_debug_mode("default")
