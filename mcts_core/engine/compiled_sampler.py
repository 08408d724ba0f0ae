"""The sampler for rows on a CPU: one pass of the compiled kernel over each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

from mcts_core import kernels
from mcts_core.engine.sampler import Draw, Drawn, Normalised, edited, sample, temperature, top_of
from mcts_core.kernels import Library
from mcts_core.search.work import TokenLogprob


class CompiledSampler:
    """Implements `Sampler`. Rows that may take only some tokens go through torch."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def __call__(self, rows: Sequence[torch.Tensor], draws: Sequence[Draw]) -> list[Drawn | None]:
        """`rows` are on the CPU, `[vocabulary]` each."""
        found: list[Drawn | None] = [None] * len(draws)
        restricted = [row for row, draw in enumerate(draws) if draw.allowed is not None]
        if restricted:
            theirs = sample([rows[row] for row in restricted], [draws[row] for row in restricted])
            for row, drawn in zip(restricted, theirs, strict=True):
                found[row] = drawn
        free = [row for row, draw in enumerate(draws) if draw.allowed is None]
        if free:
            ours = self._draw([rows[row] for row in free], [draws[row] for row in free])
            for row, drawn in zip(free, ours, strict=True):
                found[row] = drawn
        return found

    def _draw(self, rows: Sequence[torch.Tensor], draws: Sequence[Draw]) -> list[Drawn | None]:
        asked = (kernels.Draw * len(draws))()
        held: list[object] = []  # what the kernel reads
        for each, logits, draw in zip(asked, rows, draws, strict=True):
            own = logits.float().contiguous()
            each.own = each.scaled = own.data_ptr()
            scaled = edited(own, draw)
            if scaled is not own:
                each.scaled = scaled.data_ptr()
            held += (own, scaled)
            sampling = draw.sampling
            each.noise, each.greedy, each.temperature = draw.noise, draw.greedy, temperature(draw)
            each.top_k, each.top_p, each.min_p = sampling.top_k, sampling.top_p, sampling.min_p
            if draw.factors:
                taken, factors = array("q", draw.factors), array("d", draw.factors.values())
                held += (taken, factors)
                each.taken, each.taken_count = taken.buffer_info()
                each.factors, _ = factors.buffer_info()
        self._library.draw(asked, len(rows[0]))
        first = self._tops(rows, draws)
        return [
            None
            if each.token < 0
            else Drawn(
                TokenLogprob(each.token, each.logprob, first.get(row, ())), each.draw_logprob
            )
            for row, each in enumerate(asked)
        ]

    def _tops(
        self, rows: Sequence[torch.Tensor], draws: Sequence[Draw]
    ) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most likely tokens of the rows that asked for them."""
        asking = [row for row, draw in enumerate(draws) if draw.sampling.logprobs]
        if not asking:
            return {}
        own = Normalised(torch.stack([rows[row] for row in asking]).float())
        counts = [draws[row].sampling.logprobs for row in asking]
        found = own.tops(max(counts)).tolist()
        return {
            row: top_of(tops, count) for row, tops, count in zip(asking, found, counts, strict=True)
        }
