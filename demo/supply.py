"""Training batches, made by a second process while the first one trains."""

import random
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from demo.batches import Batch, Encoder
from demo.corpus import Sample
from demo.plan import Plan

_AHEAD = 16
_APART = 100
"""Groups that wait for their second use."""
_FRACTION = re.compile(r"\d/\d")


class Source(Protocol):
    """Where training samples come from; `Corpus` is one."""

    def solution(self) -> Sample:
        """A right trajectory, for the next-token loss."""
        ...

    def walk(self) -> Sample:
        """A labelled trajectory, for the process-reward loss."""
        ...

    def first_step(self) -> Sample:
        """A labelled trajectory of one step."""
        ...

    def dead_end(self) -> Sample:
        """True steps that need not win, for both losses."""
        ...

    def drill(self) -> Sample:
        """True steps, for the next-token loss on what they come to."""
        ...


def batches(corpus: Source, encoder: Encoder, plan: Plan) -> Iterator[tuple[Batch, ...]]:
    """Per step: a batch of whole trajectories, one of openings (prompt and first step).

    Trajectories with fractions are longer; they wait until they fill a batch of their own."""
    waiting: list[Sample] = []
    makers = [corpus.solution] * plan.solutions + [corpus.walk] * plan.walks
    makers += [corpus.dead_end] * plan.dead_ends
    while True:
        rows: list[Sample] = []
        for make in makers:
            while _FRACTION.search((sample := make()).text):
                waiting.append(sample)
            rows.append(sample)
        openings = [corpus.solution().first(1) for _ in range(plan.openings)]
        openings += [corpus.first_step() for _ in range(plan.first_steps)]
        group = [encoder.encode(rows), encoder.encode(openings)]
        if plan.drills:
            group.append(encoder.encode([corpus.drill() for _ in range(plan.drills)]))
        if len(waiting) >= len(makers):
            group.append(encoder.encode(waiting))
            waiting = []
        yield tuple(group)


def twice(groups: Iterable[tuple[Batch, ...]], seed: int) -> Iterator[tuple[Batch, ...]]:
    """Every group as it comes, and each once more after about as many others as wait for that."""
    rng, waiting = random.Random(seed), list[tuple[Batch, ...]]()
    for group in groups:
        yield group
        waiting.append(group)
        if len(waiting) > _APART:
            yield waiting.pop(rng.randrange(len(waiting)))


class _Batches(IterableDataset[tuple[Batch, ...]]):
    def __init__(self, source: Source, encoder: Encoder, plan: Plan) -> None:
        self._source, self._encoder, self._plan = source, encoder, plan

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        torch.set_num_threads(1)
        made = batches(self._source, self._encoder, self._plan)
        return twice(made, seed=0) if self._plan.twice else made


def supply(source: Source, encoder: Encoder, plan: Plan) -> Iterator[tuple[Batch, ...]]:
    """What `batches` yields, the same batches in the same order, `twice` if the plan says so; up to
    16 steps of them are made ahead."""
    made = _Batches(source, encoder, plan)
    return iter(DataLoader(made, batch_size=None, num_workers=1, prefetch_factor=_AHEAD))
