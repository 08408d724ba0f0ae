"""Decode steps as captured CUDA graphs, one for each bucket of rows.

A step of single tokens is hundreds of small kernels, whose launching takes longer than their work.
Captured once and replayed, they are one launch. A replay runs the same kernels over the same
memory: so all that differs between steps is in tables of fixed sizes, filled by one copy from the
host, and a step is padded to its bucket. Padding rows write their KV into the padding block, and
read nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
import torch

from mcts_core.attention.interface import AttentionBatch, Reads, Tabulate
from mcts_core.kv.blocks import PADDING_BLOCK
from mcts_core.kv.storage import KVStorage
from mcts_core.models.step import Step
from mcts_core.transfer import packed, staged, unpacked, upload

_log = structlog.get_logger(__name__)

ROW_BUCKETS = (16, 32, 64, 96, 128, 192, 256)
"""Multiples of `MIN_ROWS`: a row's bits are then those of a step that is not captured."""
UNIT_BUCKETS = (0, 16, 64, 256, 1024)
"""Of the tables' other measure (`Tables.units`); a step that needs more runs without a graph: it
reads so much KV that its launches no longer matter."""

Outputs = tuple[torch.Tensor, torch.Tensor | None]
"""Hidden states `[wanted, hidden]`, and logits `[wanted, vocabulary]` of a model that has them."""
Compute = Callable[[AttentionBatch, torch.Tensor, torch.Tensor, torch.Tensor], Outputs]
"""The model's forward: batch, token ids `[1, tokens]`, positions `[1, tokens]`, and the indices of
the wanted tokens."""
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes down what a function does on the device; what it returns does the same again. The function
may be called any number of times while it is taken down, and its results mean nothing then."""


@dataclass(frozen=True, slots=True)
class Capture:
    """How a decoder's graphs are made."""

    tabulate: Tabulate
    """The attention backend's."""
    recorder: Callable[[], Record]
    """Called for each generation of graphs, which share their memory."""
    most_rows: int
    """Rows that a step can have; larger steps than the largest bucket run without a graph."""


class CudaRecorder:
    """Implements `Record` on a CUDA device; all of its graphs share one pool of memory."""

    _WARM_UPS = 2
    """Kernels are compiled and chosen, and libraries take their memory, before the capture."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(self._WARM_UPS):
                    compute()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use CUDA meanwhile: another model's engine.
            mode = "thread_local"
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode=mode
            ):
                compute()
        replay: Callable[[], None] = graph.replay
        return replay


@dataclass(frozen=True, slots=True)
class _Graph:
    """One bucket."""

    numbers: torch.Tensor
    """All tables, packed; the recorded kernels read them here."""
    replay: Callable[[], None]


class DecodeGraphs:
    """The graphs of one model over one pool. Used by one thread."""

    def __init__(self, compute: Compute, capture: Capture, device: torch.device) -> None:
        self._compute = compute
        self._tabulate = capture.tabulate
        self._recorder = capture.recorder
        self._device = device
        more = [rows for rows in ROW_BUCKETS if rows < capture.most_rows]
        self.buckets = ROW_BUCKETS[: len(more) + 1]
        """Of rows."""
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._record: Record | None = None
        self._seen: tuple[KVStorage, int] | None = None
        """The pool that the graphs were recorded over, and its version."""
        self._hidden: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None
        """What the graphs give, for the rows of the largest bucket."""
        self.failure: str | None = None
        """Why there are no graphs any more."""

    def run(
        self, step: Step, storage: KVStorage, reads: Reads, layers: Mapping[int | None, int]
    ) -> Outputs | None:
        """The step's outputs, or None: it is not for a graph. `layers` says how many layers the
        model has of each window; `reads` is counted up as these would."""
        rows = _bucket(len(step.tokens), self.buckets)
        if self.failure is not None or step.slices or rows is None or not layers:
            return None
        for window in layers:
            step.tables[window] = self._tabulate(step.rows, window, storage.block_size)
        units = _bucket(max(tables.units for tables in step.tables.values()), UNIT_BUCKETS)
        graph = None if units is None else self._graph(rows, units, storage, layers)
        if units is None or graph is None:
            return None
        numbers = packed(_tables(step, storage, rows, units))
        graph.numbers.copy_(staged(numbers, self._device), non_blocking=True)
        graph.replay()
        for window, count in layers.items():
            reads.read += count * step.tables[window].read
            reads.attended += count * step.tables[window].attended
        # Copies: the next replay writes to the same memory.
        assert self._hidden is not None
        count = len(step.ends)
        logits = None if self._logits is None else self._logits[:count].clone()
        return self._hidden[:count].clone(), logits

    def prepare(self, storage: KVStorage, layers: Mapping[int | None, int]) -> None:
        """Records the largest bucket, so that the memory is taken which all of them share."""
        if self.failure is None and layers:
            self._graph(self.buckets[-1], UNIT_BUCKETS[-1], storage, layers)

    def _graph(
        self, rows: int, units: int, storage: KVStorage, layers: Mapping[int | None, int]
    ) -> _Graph | None:
        """The bucket's graph, recorded when it is first asked for; None when that fails."""
        if self._record is None or self._seen != (storage, storage.version):
            self._graphs.clear()  # the pool's tensors were made anew
            self._hidden = self._logits = None
            self._record, self._seen = self._recorder(), (storage, storage.version)
        graph = self._graphs.get((rows, units))
        if graph is not None:
            return graph
        # Recorded over a step that is nothing but padding: it touches nobody's KV.
        step = Step()
        for window in layers:
            step.tables[window] = self._tabulate((), window, storage.block_size)
        tables = _tables(step, storage, rows, units)
        numbers = upload(packed(tables), self._device)
        views = unpacked(numbers, [len(table) for table in tables])
        padded = {window: each.padded(rows, units) for window, each in step.tables.items()}

        def compute() -> None:
            ids, positions, slots, kept, *others = views
            batch = AttentionBatch(storage, rows, slots, (), ())
            for window, each in padded.items():
                count = len(each.lists())
                batch.plans[window] = each.plan(others[:count])
                others = others[count:]
            self._keep(*self._compute(batch, ids[None], positions[None], kept))

        try:
            replay = self._record(compute)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            self._graphs.clear()
            self._record = self._hidden = self._logits = None
            _log.warning("decode graphs are off: recording failed", reason=self.failure, rows=rows)
            return None
        graph = self._graphs[rows, units] = _Graph(numbers, replay)
        return graph

    def _keep(self, hidden: torch.Tensor, logits: torch.Tensor | None) -> None:
        rows = hidden.shape[0]
        if self._hidden is None:
            most = self.buckets[-1]
            self._hidden = hidden.new_empty((most, hidden.shape[-1]))
            self._logits = None if logits is None else logits.new_empty((most, logits.shape[-1]))
        self._hidden[:rows].copy_(hidden)
        if self._logits is not None and logits is not None:
            self._logits[:rows].copy_(logits)


def _tables(step: Step, storage: KVStorage, rows: int, units: int) -> list[Sequence[int]]:
    """All that a graph reads of a step."""
    trash = PADDING_BLOCK * storage.block_size
    lists: list[Sequence[int]] = [
        values + [padding] * (rows - len(values))
        for values, padding in (
            (step.tokens, 0),
            (step.positions, 0),
            (step.slots, trash),
            (step.ends, 0),
        )
    ]
    for tables in step.tables.values():
        lists.extend(tables.padded(rows, units).lists())
    return lists


def _bucket(count: int, buckets: tuple[int, ...]) -> int | None:
    """The least that has room; None if none has."""
    return next((bucket for bucket in buckets if count <= bucket), None)
