"""Draws the next token of every row of a batch, each by its own request's rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite, log
from operator import and_
from typing import NamedTuple, Protocol

import torch

from mcts_core.search.work import Sampling, TokenLogprob

_NOTHING_LEFT = 1e-6
"""Probability mass below which there is no new option to be had; the old ones are allowed again."""

_COLDEST = 1e-5
"""Logits over a temperature below this may be more than a float holds."""


class Draw(NamedTuple):
    """What one row wants."""

    sampling: Sampling
    greedy: bool
    """Take the most likely token; always so at temperature 0."""
    noise: float
    """Uniform in [0, 1); see `engine.noise`."""
    factors: Mapping[int, float]
    """What to multiply token probabilities by; see `engine.siblings`."""
    history: Sequence[int]
    """The row's tokens so far; read only under a penalty."""
    prompt_length: int
    """How many of `history` are the prompt's: the presence and frequency penalties skip these."""
    allowed: Sequence[int] | None = None
    """The only tokens that there are, if not all; see `engine.actions`."""
    left: Sequence[int] | None = None
    """Those of them that may be drawn, whatever their probability."""


class Drawn(NamedTuple):
    """What one row got; None in its place when its logits are not finite, or are no more after bias
    and penalties."""

    logprob: TokenLogprob
    """Under the model's own distribution."""
    draw_logprob: float
    """Under the distribution at the row's temperature, siblings not taken out; at temperature 0,
    that at temperature 1."""


class Sampler(Protocol):
    """Draws for a whole batch; see `sample`."""

    def __call__(
        self, rows: Sequence[torch.Tensor], draws: Sequence[Draw]
    ) -> list[Drawn | None]: ...


def sample(rows: Sequence[torch.Tensor], draws: Sequence[Draw]) -> list[Drawn | None]:
    """One token for each of `draws`, from its row of logits (`[vocabulary]` each).

    Rows are drawn by inverting their cumulative distribution at their noise, row by row the same
    whatever the others are.
    """
    logits = torch.stack(list(rows)).float()
    scaled = _scale(logits, draws)
    own = Normalised(logits)
    _filter(scaled, draws)
    _restrict(scaled, draws)
    used = Normalised(scaled)
    available = _without_siblings(used.probabilities, draws)
    if any(draw.left is not None for draw in draws):
        available = _left(available, scaled, draws)
    cumulative = available.cumsum(dim=-1, dtype=torch.float64)
    noise = torch.tensor([draw.noise for draw in draws], dtype=torch.float64, device=logits.device)
    at = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)
    drawn = at[:, 0].clamp_(max=logits.shape[1] - 1)
    greedy = torch.tensor([draw.greedy for draw in draws], device=logits.device)
    chosen = torch.where(greedy, available.argmax(dim=-1), drawn)[:, None]
    tokens = chosen[:, 0].tolist()
    owns, useds = own.logprobs(chosen)[:, 0].tolist(), used.logprobs(chosen)[:, 0].tolist()
    most = tops(own, draws)
    return [
        Drawn(TokenLogprob(tokens[row], owns[row], most.get(row, ())), useds[row])
        if finite
        else None
        for row, finite in enumerate(map(and_, own.finite(), used.finite()))
    ]


class Normalised:
    """Logits `[rows, vocabulary]` and their softmax, which torch computes row by row: a row's
    values are the same bits whatever the number of rows. (Its logarithm of a vector is not: values
    left over after the last full run of a vector register are rounded differently.)"""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.probabilities = logits.softmax(dim=-1)
        self._peak, at = logits.max(dim=-1, keepdim=True)
        peaks = self.probabilities.gather(1, at)[:, 0].tolist()
        self._finite = [isfinite(peak) for peak in peaks]
        logs = [
            log(peak) if finite else 0.0 for peak, finite in zip(peaks, self._finite, strict=True)
        ]
        self._log_peak = torch.tensor(logs, dtype=torch.float64, device=logits.device)[:, None]

    def finite(self) -> list[bool]:
        """By row."""
        return self._finite

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of `tokens` `[rows, n]`; exact also where the probability underflows."""
        return (self.logits.gather(1, tokens) - self._peak).double() + self._log_peak


def edited(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A row of logits `[vocabulary]` after bias and penalties, in the order of the OpenAI and vLLM
    samplers; the row itself where there are none."""
    sampling = draw.sampling
    penalised = sampling.presence_penalty or sampling.frequency_penalty
    if not (sampling.logit_bias or sampling.repetition_penalty != 1.0 or penalised):
        return logits
    row = logits.clone()
    if sampling.logit_bias:
        tokens, bias = zip(*sampling.logit_bias, strict=True)
        row[list(tokens)] += torch.tensor(bias, device=logits.device)
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(draw.history)), device=logits.device)
        values = row[seen]
        penalty = sampling.repetition_penalty
        row[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if penalised:
        counts = Counter(draw.history[draw.prompt_length :])
        for token, count in counts.items():
            row[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    return row


def temperature(draw: Draw) -> float:
    """What the logits are divided by; at 0 the distribution is that at 1, and its peak is taken."""
    wanted = draw.sampling.temperature
    return max(wanted, _COLDEST) if wanted else 1.0


def _scale(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    rows = [edited(row, draw) for row, draw in zip(logits.unbind(0), draws, strict=True)]
    temperatures = torch.tensor([temperature(draw) for draw in draws], device=logits.device)
    return torch.stack(rows) / temperatures[:, None]


def _filter(scaled: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Top-k, top-p and min-p, in place; greedy rows keep their best token under any of them."""
    rows = [
        row
        for row, draw in enumerate(draws)
        if draw.allowed is None
        and (draw.sampling.top_k or draw.sampling.top_p < 1.0 or draw.sampling.min_p > 0.0)
    ]
    for row in rows:
        sampling = draws[row].sampling
        values, order = scaled[row].sort(descending=True)
        probabilities = values.softmax(dim=-1)
        dropped = torch.zeros_like(values, dtype=torch.bool)
        if sampling.top_k:
            dropped[sampling.top_k :] = True
        if sampling.top_p < 1.0:
            dropped |= probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
        if sampling.min_p > 0.0:
            dropped |= probabilities < sampling.min_p * probabilities[0]
        dropped[0] = False
        scaled[row, order[dropped]] = float("-inf")


def _restrict(scaled: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Takes all but the allowed tokens out, in place."""
    for row, draw in enumerate(draws):
        if draw.allowed is not None:
            tokens = torch.tensor(draw.allowed, device=scaled.device)
            kept = scaled[row, tokens]
            scaled[row] = float("-inf")
            scaled[row, tokens] = kept


def _left(probabilities: torch.Tensor, scaled: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """The probabilities of the tokens that are left. Where those are too unlikely to be told from
    nothing, they are what there is."""
    available = probabilities.clone()
    for row, draw in enumerate(draws):
        if draw.left is not None:
            tokens = torch.tensor(draw.left, device=scaled.device)
            kept = available[row, tokens]
            if float(kept.sum()) < _NOTHING_LEFT:
                kept = scaled[row, tokens].softmax(dim=-1)
            available[row] = 0.0
            available[row, tokens] = kept
    return available


def _without_siblings(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    rows: list[int] = []
    tokens: list[int] = []
    factors: list[float] = []
    for row, draw in enumerate(draws):
        for token, factor in draw.factors.items():
            rows.append(row)
            tokens.append(token)
            factors.append(factor)
    if not rows:
        return probabilities
    available = probabilities.clone()
    available[rows, tokens] *= torch.tensor(factors, device=probabilities.device)
    empty = available.sum(dim=-1, keepdim=True) < _NOTHING_LEFT
    return torch.where(empty, probabilities, available)


def tops(own: Normalised, draws: Sequence[Draw]) -> dict[int, tuple[tuple[int, float], ...]]:
    """The most likely tokens of the rows that asked for them."""
    most = max((draw.sampling.logprobs for draw in draws), default=0)
    if not most:
        return {}
    tokens = own.logits.topk(min(most, own.logits.shape[-1]), dim=-1).indices
    logprobs = own.logprobs(tokens).tolist()
    return {
        row: tuple(zip(tokens[row].tolist(), logprobs[row], strict=True))[: draw.sampling.logprobs]
        for row, draw in enumerate(draws)
        if draw.sampling.logprobs
    }
