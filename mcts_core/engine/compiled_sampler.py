"""The sampler for rows on a CPU: one pass of the compiled kernel over each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

from mcts_core.engine.sampler import Draw, Drawn, Normalised, edited, sample, temperature, top_of
from mcts_core.kernels import DRAW_SIZE, DRAWN, WANTED, Library
from mcts_core.models.logits import LogitsRow, together
from mcts_core.search.work import Sampling, TokenLogprob


class CompiledSampler:
    """Implements `Sampler`. Rows that may take only some tokens go through torch."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def __call__(self, rows: Sequence[LogitsRow], draws: Sequence[Draw]) -> list[Drawn | None]:
        """`rows` are on the CPU."""
        restricted = [row for row, draw in enumerate(draws) if draw.allowed is not None]
        if not restricted:
            return self._draw(rows, draws)
        found: list[Drawn | None] = [None] * len(draws)
        free = [row for row, draw in enumerate(draws) if draw.allowed is None]
        for some, sampler in ((restricted, sample), (free, self._draw)):
            theirs = sampler([rows[row] for row in some], [draws[row] for row in some])
            for row, drawn in zip(some, theirs, strict=True):
                found[row] = drawn
        return found

    def _draw(self, rows: Sequence[LogitsRow], draws: Sequence[Draw]) -> list[Drawn | None]:
        if not draws:
            return []
        packed = bytearray(DRAW_SIZE * len(draws))
        held: list[object] = []  # what the kernel reads
        step: torch.Tensor | None = None
        sampling: Sampling | None = None
        at = base = size = 0
        for row, draw in zip(rows, draws, strict=True):
            if row.step is not step:
                step = row.step
                whole = step.float().contiguous()
                held.append(whole)
                base, size = whole.data_ptr(), 4 * whole.shape[1]
            first = scaled = base + row.at * size
            if draw.sampling is not sampling:  # many rows are of the same request
                sampling = draw.sampling
                edits, heat = sampling.edits, temperature(sampling)
                top_p, min_p, top_k = sampling.top_p, sampling.min_p, sampling.top_k
            if edits:
                after = edited(row, draw)
                held.append(after)
                scaled = after.data_ptr()
            taken_at = factors_at = 0
            if draw.factors:
                taken, factors = array("q", draw.factors), array("d", draw.factors.values())
                held += (taken, factors)
                (taken_at, _), (factors_at, _) = taken.buffer_info(), factors.buffer_info()
            WANTED.pack_into(
                packed,
                at,
                first,
                scaled,
                draw.noise,
                heat,
                top_p,
                min_p,
                top_k,
                draw.greedy,
                taken_at,
                factors_at,
                len(draw.factors),
            )
            at += DRAW_SIZE
        self._library.draw(packed, size // 4)
        tops = self._tops(rows, draws)
        found: list[Drawn | None] = []
        for index, at in enumerate(range(WANTED.size, len(packed), DRAW_SIZE)):
            token, logprob, draw_logprob = DRAWN.unpack_from(packed, at)
            own = TokenLogprob(token, logprob, tops.get(index, ()))
            found.append(Drawn(own, draw_logprob) if token >= 0 else None)
        return found

    def _tops(
        self, rows: Sequence[LogitsRow], draws: Sequence[Draw]
    ) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most likely tokens of the rows that asked for them."""
        asking = [row for row, draw in enumerate(draws) if draw.sampling.logprobs]
        if not asking:
            return {}
        own = Normalised(together([rows[row] for row in asking]).float())
        counts = [draws[row].sampling.logprobs for row in asking]
        found = own.tops(max(counts)).tolist()
        return {
            row: top_of(tops, count) for row, tops, count in zip(asking, found, counts, strict=True)
        }
