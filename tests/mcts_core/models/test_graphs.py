"""What would break: a captured step that computes something else than the same step without a
graph: by its padding, by tables of another step, or over a pool that is no more.

Without a GPU, and where nothing is captured, a replay is a call of the same function on the same
buffers."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from mcts_core.attention import Backend
from mcts_core.attention.flash import FlashAttention, tabulate
from mcts_core.kv.branch import Branch, Copies, Ledger
from mcts_core.models import graphs
from mcts_core.models.decoder import Computed, Rows
from mcts_core.models.gate import probe
from mcts_core.models.graphs import Capture, CudaRecorder, DecodeGraphs, Record
from tests.mcts_core.attention.test_parity import spoil
from tests.mcts_core.attention.varlen import attend_by_definition
from tests.mcts_core.models_zoo import VOCABULARY, make, seat

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PROMPT = [3 + 5 * n % (VOCABULARY - 3) for n in range(75)]
NEEDS_GPU = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs an NVIDIA GPU")
INTERPRETED = DEVICE.type == "cpu" and shutil.which("nvidia-smi") is None
NEEDS_TRITON = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or DEVICE.type == "cuda"),
    reason="triton is not installed (extra gpu), or neither compiles nor interprets here",
)


@dataclass
class Recorder:
    """Records, or only calls, and counts."""

    real: bool = False
    most_rows: int = 90
    recorded: int = 0
    replayed: int = 0
    generations: int = 0
    broken: bool = False

    def begin(self) -> Record:
        self.generations += 1
        return partial(self._record, CudaRecorder(DEVICE) if self.real else None)

    def _record(
        self, recorder: CudaRecorder | None, compute: Callable[[], None]
    ) -> Callable[[], None]:
        if self.broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        recorded = compute if recorder is None else recorder(compute)

        def replay() -> None:
            self.replayed += 1
            recorded()

        return replay


def backend_of(name: str) -> Backend:
    if name == "flash":
        kernel = FlashAttention(attend_by_definition)
        return Backend("flash", kernel, tabulate=tabulate)
    triton = importlib.import_module("mcts_core.attention.triton")
    return Backend("triton", triton.paged_attention, tabulate=triton.tabulate)


@pytest.fixture(
    params=[
        pytest.param(("triton", False), id="triton", marks=NEEDS_TRITON),
        pytest.param(("flash", False), id="flash"),
        pytest.param(("triton", True), id="triton-captured", marks=[NEEDS_GPU, pytest.mark.gpu]),
    ]
)
def way(request: pytest.FixtureRequest) -> tuple[Backend, Recorder]:
    name, real = request.param
    # The interpreter is slow.
    most_rows = 250 if real else 30 if name == "triton" and INTERPRETED else 90
    return backend_of(name), Recorder(real, most_rows)


class Twins:
    """One model over two pools, with graphs and without; the same is done in both."""

    def __init__(
        self, family: str, way: tuple[Backend, Recorder], *, language_head: bool = True
    ) -> None:
        backend, self.recorder = way
        assert backend.tabulate is not None
        capture = Capture(backend.tabulate, self.recorder.begin, self.recorder.most_rows)
        model = make(family, language_head=language_head).to(DEVICE)
        self.both = [
            seat(model, blocks=900, attention=backend, capture=capture),
            seat(model, blocks=900, attention=backend),
        ]
        for resident in self.both:
            # The first forward says what layers there are, and makes the pool's tensors.
            ledger = Ledger()
            branch = Branch(resident.pool, ledger)
            branch.grow(3)
            resident.forward([Rows(branch, [5, 6, 7], 0, [2])], [])
            ledger.release_all()
            spoil(resident, float("nan"))
        self.ledgers = [Ledger() for _ in self.both]

    @property
    def graphs(self) -> DecodeGraphs:
        decoder: Any = self.both[0].decoder
        assert decoder.graphs is not None
        made: DecodeGraphs = decoder.graphs
        return made

    def root(self, which: int) -> Branch:
        return Branch(self.both[which].pool, self.ledgers[which])

    def grow(self, branches: list[list[Branch]], tokens: list[list[int]]) -> list[Computed]:
        """One step in both pools; what it gave."""
        found = []
        for resident, mine in zip(self.both, branches, strict=True):
            copies: Copies = []
            rows = []
            for branch, new in zip(mine, tokens, strict=True):
                start = branch.length
                copies += branch.grow(len(new))
                rows.append(Rows(branch, new, start, [len(new) - 1]))
            found.append(resident.forward(rows, copies))
        return found

    def forest(self, count: int) -> list[list[Branch]]:
        """Branches that left a long prompt within a block and between two, and short ones."""
        roots = [[self.root(which)] for which in range(2)]
        self.same(self.grow(roots, [PROMPT]))
        branches: list[list[Branch]] = [
            [mine[0].fork(len(PROMPT) - n % 11) for n in range(count - count // 9)]
            for mine in roots
        ]
        shorts = [[self.root(which) for _ in range(count // 9)] for which in range(2)]
        texts = [[3 + n, 4, 5 + n][: 1 + n % 3] for n in range(count // 9)]
        if texts:
            self.same(self.grow(shorts, texts))
        return [mine + others for mine, others in zip(branches, shorts, strict=True)]

    def same(self, found: list[Computed]) -> None:
        """Bits on a CPU; on a GPU larger steps take other kernels."""
        ours, theirs = found
        for mine, other in ((ours.hidden, theirs.hidden), (ours.logits, theirs.logits)):
            if mine is None or other is None:
                assert mine is other
            elif DEVICE.type == "cpu":
                assert torch.equal(mine, other)
            else:
                assert torch.allclose(mine, other, atol=1e-5)
        assert all(ours.finite())
        assert self.both[0].reads == self.both[1].reads


def test_each_bucket_gives_at_its_edges_what_the_step_gives_without_it(
    way: tuple[Backend, Recorder],
) -> None:
    twins = Twins("gemma3", way)
    decoder: Any = twins.both[0].decoder
    assert len(decoder._layers) == 2, "one layer with a window, and one without"
    buckets = twins.graphs.buckets
    branches = twins.forest(buckets[-1] + 1)
    before = twins.recorder.replayed
    for bucket in buckets:
        for count in (bucket - 1, bucket, bucket + 1):
            picked = [mine[:count] for mine in branches]
            fresh = [[3 + (7 * n + count) % (VOCABULARY - 3)] for n in range(count)]
            twins.same(twins.grow(picked, fresh))
            for mine in picked:
                for branch in mine:
                    branch.truncate(branch.length - 1)
    assert twins.recorder.replayed - before == 3 * len(buckets) - 1, "all but the largest"


def test_steps_without_a_graph_find_what_replays_wrote(way: tuple[Backend, Recorder]) -> None:
    twins = Twins("llama", way)
    branches = twins.forest(10)
    size = twins.both[0].pool.block_size
    padding = [
        tensor[:, :size] for pair in twins.both[0].storage._layers.values() for tensor in pair
    ]
    with torch.inference_mode():
        for block in padding:
            block[:, 1:] = float("nan")
    steps = [twins.grow(branches, [[9 + n + depth] for n in range(10)]) for depth in range(3)]
    for found in steps:
        twins.same(found)  # also the first: a replay does not write over what was handed out
    replayed = twins.recorder.replayed
    roots = [[*mine[:4], twins.root(which)] for which, mine in enumerate(branches)]
    twins.same(twins.grow(roots, [[5], [6], [7, 8], [9], PROMPT[:40]]))
    assert twins.recorder.replayed == replayed, "a slice of a prompt is not for a graph"
    for block in padding:
        assert block[:, 0].isfinite().all(), "padding rows read what they wrote, and no more"


def test_a_critics_trunk_without_a_language_head_is_captured_too(
    way: tuple[Backend, Recorder],
) -> None:
    twins = Twins("qwen2", way, language_head=False)
    branches = twins.forest(5)
    found = twins.grow(branches, [[9 + n] for n in range(5)])
    assert found[0].logits is None
    twins.same(found)
    assert twins.recorder.replayed


def test_a_pool_that_was_made_anew_is_recorded_anew(way: tuple[Backend, Recorder]) -> None:
    twins = Twins("llama", way)
    for blocks in (900, 700, 500):
        for resident, ledger in zip(twins.both, twins.ledgers, strict=True):
            ledger.release_all()
            resident.resize(blocks)
            spoil(resident, float("nan"))
        branches = twins.forest(6)
        twins.same(twins.grow(branches, [[9 + n] for n in range(6)]))
    assert twins.recorder.generations == 3


def test_what_cannot_be_recorded_runs_without_a_graph_and_says_so_once(
    way: tuple[Backend, Recorder],
) -> None:
    twins = Twins("llama", way)
    twins.recorder.broken = True
    with capture_logs() as logs:
        branches = twins.forest(20)
        for depth in range(2):
            twins.same(twins.grow(branches, [[9 + n + depth] for n in range(20)]))
    (entry,) = logs
    assert entry["event"] == "decode graphs are off: recording failed"
    assert "not permitted when stream is capturing" in entry["reason"]
    assert not twins.recorder.replayed


def test_a_step_whose_tables_are_too_large_runs_without_a_graph(
    way: tuple[Backend, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "UNIT_BUCKETS", (0, 1))
    twins = Twins("llama", way)
    branches = twins.forest(20)
    replayed = twins.recorder.replayed
    twins.same(twins.grow(branches, [[9 + n] for n in range(20)]))
    assert twins.recorder.replayed == replayed


def test_the_largest_bucket_is_recorded_beforehand(way: tuple[Backend, Recorder]) -> None:
    twins = Twins("llama", way)
    resident = twins.both[0]
    resident.prepare()
    assert set(twins.graphs._graphs) == {(twins.graphs.buckets[-1], graphs.UNIT_BUCKETS[-1])}
    resident.resize(300)
    resident.prepare()
    assert twins.recorder.generations == twins.recorder.recorded == 2


def test_a_bad_token_fails_its_step_and_not_the_graphs(way: tuple[Backend, Recorder]) -> None:
    if DEVICE.type == "cuda":
        pytest.skip("on a GPU it ends the process's use of it, captured or not")
    twins = Twins("llama", way)
    branches = twins.forest(3)
    with pytest.raises(IndexError):
        twins.grow(branches, [[VOCABULARY], [4], [5]])
    for resident, ledger in zip(twins.both, twins.ledgers, strict=True):
        with torch.inference_mode():
            for branch in ledger.branches:
                resident.scrub(branch)
        ledger.release_all()
    again = twins.forest(3)
    twins.same(twins.grow(again, [[9], [4], [5]]))
    assert twins.recorder.replayed


def test_models_pass_the_probe_through_graphs(way: tuple[Backend, Recorder]) -> None:
    backend, recorder = way
    assert backend.tabulate is not None
    model = make("mistral-window").to(DEVICE)
    capture = Capture(backend.tabulate, recorder.begin, 64)
    resident = seat(model, attention=backend, capture=capture)
    assert probe(model, resident, "tiny") < 1e-5
    assert recorder.replayed


def test_buckets_go_as_far_as_steps_can() -> None:
    for most, expected in ((1, (16,)), (17, (16, 32)), (2048, graphs.ROW_BUCKETS)):
        twins = Twins("llama", (backend_of("flash"), Recorder(most_rows=most)))
        assert twins.graphs.buckets == expected
